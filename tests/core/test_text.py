"""Text files from users: encodings, line endings, compression, and binary files."""

import bz2
import gzip
import lzma
import subprocess
import sys

import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.core.text import LONGEST_LINE, read_lines, read_table, read_text, shown, some

TEXT = "one\nzwei Å\n\nlast"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_encodings_line_endings_and_gzip_are_handled(tmp_path, encoding, end, pack):
    path = tmp_path / "a"
    path.write_bytes(pack(TEXT.replace("\n", end).encode(encoding)))
    assert list(read_lines(path)) == TEXT.split("\n")
    assert read_text(path) == TEXT + "\n"


def test_byte_order_marks_inside_joined_files_are_ignored(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffone\n".encode() + "\ufefftwo\n".encode())
    assert list(read_lines(tmp_path / "a")) == ["one", "two"]


def test_character_across_two_blocks_is_decoded(tmp_path):
    """For one of the line lengths, the letter's two bytes are on both sides of a block boundary."""
    for length in range((1 << 16) - 4, (1 << 16) + 2):
        (tmp_path / "a").write_text("x" * length + "Åy\nz\n", encoding="utf-8")
        assert list(read_lines(tmp_path / "a")) == ["x" * length + "Åy", "z"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (bz2.compress(b"x"), "compressed with bzip2"),
        (lzma.compress(b"x"), "compressed with xz"),
        (b"\x7fELF\0\0", "not a text file"),
        (gzip.compress(b"a\0b", mtime=0), "not a text file"),
        (gzip.compress(b"word " * 1000, mtime=0)[:40], "cannot be read"),
        (gzip.compress(b"word " * 1000, mtime=0)[:20] + b"\xff" * 40, "cannot be read"),
        (b"x" * (LONGEST_LINE + 1), "a line of more than"),
    ],
)
def test_binary_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DPLM2Error, match=rf"{tmp_path / 'a'}: {message}"):
        list(read_lines(tmp_path / "a"))


def test_missing_files_are_refused_by_name(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DPLM2Error, match=rf"{path}: cannot be read"):
            read_text(path)


def test_endless_line_does_not_exhaust_memory(tmp_path):
    """256 MB of one letter, packed to 256 kB."""
    with gzip.open(tmp_path / "a.gz", "wb", compresslevel=1) as stream:
        for _ in range(256):
            stream.write(b"A" * (1 << 20))
    program = (
        "import resource, sys\nfrom dplm2.core.text import read_text\nfrom dplm2.core.errors import DPLM2Error\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_text(sys.argv[1])\nexcept DPLM2Error as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.gz")], capture_output=True, text=True)
    message, grown = done.stdout.splitlines()
    assert "a line of more than" in message
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 30e6


def test_tables(tmp_path):
    for text in ('\ufeffa,b\r\n"x,1",2\r\n', "a\tb\nx,1\t2\n"):
        (tmp_path / "t").write_text(text, encoding="utf-8", newline="")
        assert list(read_table(tmp_path / "t")) == [{"a": "x,1", "b": "2"}]
    (tmp_path / "t").write_text("a,b\n" + "x" * 200_000 + "\n")
    with pytest.raises(DPLM2Error, match="cannot be read as a table"):
        list(read_table(tmp_path / "t"))


def test_messages_are_short_and_without_control_characters():
    assert shown("a\x1b[31mb") == "'a?[31mb'" and len(shown("x" * 10_000)) < 80 and shown([1]) == "a value of type list"
    assert some(["a", "b"]) == "a, b" and some(list("abcdefgh")) == "a, b, c, d, e and 3 more"
