"""The rules of the FASTA reader, each on a synthetic file."""

import gzip
import logging

import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import LETTERS, LONGEST_RECORD, clean_sequences, is_fasta, read_fasta, read_records
from dplm2.language.vocabulary import Vocabulary


@pytest.fixture
def written(tmp_path):
    def write(text, name="x.fasta"):
        path = tmp_path / name
        data = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def test_letters_are_those_of_the_vocabulary():
    assert Vocabulary().decode_sequence(Vocabulary().encode_sequence(LETTERS)) == LETTERS
    with pytest.raises(DPLM2Error):
        Vocabulary().encode_sequence("J")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (">one first protein\nacd\nEFG*\n\n>two\nKK\n", {"one": "ACDEFG", "two": "KK"}),
        ("\ufeff>a\r\nMK\r\n>b\r\nVV\r\n", {"a": "MK", "b": "VV"}),
        (">a\rMK\rVV\r", {"a": "MKVV"}),
        ("; comment\n# another\n  >a\n MK VV\t\n", {"a": "MKVV"}),
        (">a\nMK--V.V*--\n", {"a": "MKVV"}),
        (">a\nxbzuo\n", {"a": "XBZUO"}),
        ("> a b\nMK\n", {"a": "MK"}),
        (">a\nMK\n>é b\nVV\n", {"a": "MK", "é": "VV"}),
        (">a\nMK\n>\nVV\n>\nVK\n", {"a": "MK", "record-2": "VV", "record-3": "VK"}),
        (">p 1\nMK\n>p 2\nVV\n>q 1\nKK\n", {"p 1": "MK", "p 2": "VV", "q": "KK"}),
        (">p\nMK\n>p\nVV\n>p-2\nKK\n", {"p": "MK", "p-3": "VV", "p-2": "KK"}),
        (f">{'x' * 400}\nMK\n", {"x" * 400: "MK"}),
    ],
)
@pytest.mark.parametrize("name", ["x.fasta", "x.fa.gz"])
def test_valid_fasta_is_read(written, text, expected, name):
    assert read_fasta(written(text, name)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nMK\n>b c\nMQIFJV\n", r"x.fasta, record 2 \(b\): 'J' is leucine or isoleucine.*\(position 5\); write L"),
        (">b\nMQ\nIF\nj\n", r"record 1 \(b\): 'j' is leucine.*position 5"),
        (">b\nM-Q*V\n", r"record 1 \(b\): '\*' is a stop codon.*position 4"),
        (">b\n1 MK\n", r"'1' is not an amino acid \(position 1\)"),
        (">b\nM?K\n", r"'\?' is not an amino acid \(position 2\)"),
        (">b\nMıK\n", r"'ı' is not an amino acid \(position 2\)"),
        (">b\nMßK\n", r"'ß' is not an amino acid \(position 2\)"),
        (">\nM1\n", r"x.fasta, record 1: '1'"),
        ("MKV\n", "not FASTA, its first line does not begin with '>' but 'MKV'"),
        ("ID   P12345\n", "not FASTA"),
        ("", "no sequences"),
        (">a\n>b\n--\n", "no sequences"),
        ("\0\0>a\nM\n", "not a text file"),
        (">a\n" + ("M" * 1000 + "\n") * (LONGEST_RECORD // 1000 + 1), r"record 1 \(a\): more than 1000000 letters"),
        (f">a\n{'M' * (2 << 20)}\n", "a line of more than"),
        (f">{'a' * 1000}\nM1\n", r"record 1 \(a{60}\.\.\.\)"),
    ],
)
def test_invalid_fasta_is_refused(written, text, message):
    with pytest.raises(DPLM2Error, match=message) as caught:
        read_fasta(written(text))
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_question_marks_are_accepted_if_allowed(written):
    assert read_fasta(written(">a\nM?K\n"), to_generate=True) == {"a": "M?K"}


def test_changes_are_reported_once_with_names(written, caplog):
    gapped = "".join(f">g{n}\nM-K\n" for n in range(100))
    path = written(f">p 1\nMK\n>p 2\nVV\n>same\nMK\n>same\nMK\n>empty\n>b\n*\n>\nMK\n{gapped}")
    with caplog.at_level(logging.WARNING):
        read_fasta(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: skipped records without a sequence: empty, b",
        f"{path}: removed gaps ('-' and '.') from: g0, g1, g2, g3, g4 and 95 more",
        f"{path}: headers without a name: record-7",
        f"{path}: records with the same first word are named by their whole headers: p 1, p 2",
        f"{path}: numbered records with the same name: same-2",
    ]


def test_records_keep_their_numbers_and_headers(written):
    records = list(read_records(written(">a one\nMK\n>empty\n>b two words\nVV\n")))
    assert [tuple(record) for record in records] == [(1, "a one", "MK"), (3, "b two words", "VV")]


def test_sequences_from_memory_follow_the_same_rules(caplog):
    with caplog.at_level(logging.WARNING):
        assert clean_sequences({"a": " mk-v\n", "b": "KK*"}) == {"a": "MKV", "b": "KK"}
    assert [record.getMessage() for record in caplog.records] == ["sequences: removed gaps ('-' and '.') from: a"]
    for text, message in [("MJ", "a: 'J' is leucine"), ("--", "a: no residues"), (None, "a: a sequence is text")]:
        with pytest.raises(DPLM2Error, match=message):
            clean_sequences({"a": text})


def test_fasta_is_recognised_by_name_or_content(written, tmp_path):
    for name in ("a.fasta", "a.FA", "a.fas", "a.faa", "a.fna", "a.fasta.gz"):
        assert is_fasta(written("no header", name))
    for name in ("a.txt", "a.seq", "a.txt.gz", "a"):
        assert is_fasta(written("\n>a\nMK\n", name)) and not is_fasta(written("ATOM  \n", name))
    assert not is_fasta(written(b"\x83\0", "a.bcif")) and not is_fasta(tmp_path) and not is_fasta(tmp_path / "no.fasta")
