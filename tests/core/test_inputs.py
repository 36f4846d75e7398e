"""Identities of the user's files depend only on content, yet large files need not be read."""

import os
import shutil
from pathlib import Path

import pytest

from dplm2.core import inputs
from dplm2.core.errors import DPLM2Error
from dplm2.core.inputs import SMALL, files_below, hash_of, identity, unhashed

LARGE = SMALL + 1


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def written(path: Path, letter: str, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(letter.encode() * size)
    return path


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def replaced(path: Path, letter: str) -> None:
    """Different content of the same size and modification time."""
    times = path.stat()
    path.write_bytes(letter.encode() * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("size", [0, 10, SMALL, LARGE, LARGE + SMALL])
def test_identity_changes_only_with_content(tmp_path, state, size):
    file = written(tmp_path / "weights.pt", "a", size)
    before = identity(file, ("*",), state)
    hash_of(file, state)  # what the job does that reads it
    assert identity(file, ("*",), state) == before
    for _ in range(3):
        touch(file)
        assert identity(file, ("*",), state) == before
    file.write_bytes(b"a" * (size + 1))
    assert identity(file, ("*",), state) != before


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("change", [replaced, lambda path, letter: path.write_bytes(letter.encode() * LARGE)])
def test_changed_content_of_equal_size_is_detected_and_recorded(tmp_path, state, size, change):
    file = written(tmp_path / "weights.pt", "a", size)
    before = identity(file, ("*",), state)
    first = hash_of(file, state)
    change(file, "b")
    after = identity(file, ("*",), state)
    assert after != before
    assert hash_of(file, state) != first
    assert identity(file, ("*",), state) == after  # reading it changes nothing
    touch(file)
    assert identity(file, ("*",), state) == after


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_one_of_several_equal_files_is_recognised_by_its_time(tmp_path, state, moved):
    files = [written(tmp_path / name / "model.safetensors", "a", LARGE) for name in "xyz"]
    for number, file in enumerate(files):
        os.utime(file, ns=(0, 10**9 * (1 + number)))
    before = [identity(file, ("*",), state) for file in files]
    planned = {file: known for file in files for _, known in unhashed(file, ("*",), state).values()}
    for file, known in planned.items():
        hash_of(file, state, known)
    assert len(set(before)) == len(set(planned.values())) == 3
    copied = shutil.copy2(files[moved], tmp_path / "copy.safetensors")
    assert identity(copied, ("*",), state) == before[moved]


@pytest.mark.parametrize("copied", [shutil.copytree, shutil.move])
@pytest.mark.parametrize("with_new_times", [False, True])
def test_moved_folder_keeps_its_identity(tmp_path, state, copied, with_new_times):
    folder = tmp_path / "model"
    for name, size in (("config.json", 10), ("model.safetensors", LARGE), ("more.safetensors", LARGE)):
        hash_of(written(folder / name, name[0], size), state)
    patterns = ("*.safetensors", "config.json")
    touch(folder / "model.safetensors")
    before = identity(folder, patterns, state)
    copied(folder, tmp_path / "copy")
    for file in (tmp_path / "copy").iterdir():
        if with_new_times:
            touch(file)
    (tmp_path / "copy" / "README.md").write_text("not one of the patterns")
    assert identity(tmp_path / "copy", patterns, state) == before
    replaced(tmp_path / "copy" / "model.safetensors", "z")
    assert identity(tmp_path / "copy", patterns, state) != before


def test_names_in_a_folder_matter_but_not_the_name_of_a_single_file(tmp_path, state):
    one, other = written(tmp_path / "one.txt", "a", 5), written(tmp_path / "deep" / "other.txt", "a", 5)
    assert identity(one, ("*",), state) == identity(other, ("*",), state)
    assert identity(one, ("*",), state) != identity(written(tmp_path / "one.csv", "a", 5), ("*",), state)
    before = identity(tmp_path / "deep", ("*",), state)
    other.rename(tmp_path / "deep" / "renamed.txt")
    assert identity(tmp_path / "deep", ("*",), state) != before


def test_planning_reads_no_large_file_and_writes_nothing(tmp_path, state, monkeypatch):
    file = written(tmp_path / "weights.pt", "a", LARGE)
    monkeypatch.setattr(inputs, "sha256_of_file", lambda path: pytest.fail(f"{path} was read"))
    before = identity(file, ("*",), state)
    assert not state.exists()
    touch(file)  # nobody knows its content: it counts as changed
    assert identity(file, ("*",), state) != before
    monkeypatch.undo()
    hash_of(file, state)
    noted = {path: path.read_bytes() for path in (state / "inputs").iterdir()}
    monkeypatch.setattr(inputs, "sha256_of_file", lambda path: pytest.fail(f"{path} was read again"))
    identity(file, ("*",), state)
    hash_of(file, state)
    assert {path: path.read_bytes() for path in (state / "inputs").iterdir()} == noted


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"seen": 1}'])
def test_damaged_record_is_ignored(tmp_path, state, damage):
    file = written(tmp_path / "weights.pt", "a", LARGE)
    before = identity(file, ("*",), state)
    first = hash_of(file, state)
    for note in (state / "inputs").iterdir():
        note.write_bytes(damage)
    assert identity(file, ("*",), state) == before
    assert hash_of(file, state) == first


def test_database_is_identified_by_its_file_prefix(tmp_path, state):
    for name in ("pdb", "pdb.index", "pdb_ss"):
        written(tmp_path / "databases" / name, "a", 5)
    (tmp_path / "databases" / "pdb").unlink()
    base = tmp_path / "databases" / "pdb"
    assert [file.name for file in files_below(base, ("*",))] == ["pdb.index", "pdb_ss"]
    before = identity(base, ("*",), state)
    written(tmp_path / "databases" / "pdb_ss", "b", 5)
    assert identity(base, ("*",), state) != before
    assert files_below(tmp_path / "nowhere" / "pdb", ("*",)) == []


def test_a_folder_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_FILES", 2)
    for name in "abc":
        written(tmp_path / "folder" / name, name, 1)
    with pytest.raises(DPLM2Error, match="more than 2 files"):
        files_below(tmp_path / "folder", ("*",))
