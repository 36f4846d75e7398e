"""Listings: a changed file changes one shard, which is detected without reading or writing files."""

import builtins
import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.structures import manifest
from dplm2.structures.manifest import (
    Listing,
    entry_name,
    list_files,
    read_manifest,
    sha256_of_source,
    shard_of,
    write_hashes,
)

SHARDS = 8


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "structures"
    (folder / "deeper").mkdir(parents=True)
    for i in range(40):
        (folder / ("deeper" if i % 2 else "") / f"{i}abc.cif").write_text(f"data_{i}")
    return folder


@pytest.fixture
def listed(files, tmp_path):
    """The listing of a finished run, which has written manifests and recorded hashes."""
    return run(list_files(str(files), tmp_path / "m", SHARDS))


def run(listing: Listing) -> Listing:
    """Process a listing like a run of the workflow."""
    for path in listing.write():
        write_hashes(path, [replace(file, sha256=sha256_of_source(file.path)) for file in read_manifest(path)])
    return listing


def identities(listing: Listing) -> list[str]:
    return listing.identities


def changed(before: Listing, after: Listing) -> set[int]:
    return {i for i, pair in enumerate(zip(identities(before), identities(after), strict=True)) if len(set(pair)) > 1}


def contents(folder: Path) -> dict:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def touch(path: Path) -> None:
    """Another modification time, the same content."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def replaced(path: Path, text: str) -> None:
    """Different content of the same size and modification time."""
    times = path.stat()
    assert len(text) == times.st_size
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_manifest_lists_every_file_with_its_size_and_time(files, tmp_path):
    manifests = list_files(str(files), tmp_path / "m", SHARDS).write()
    assert [path.name for path in manifests] == [f"part-{i:05d}.tsv" for i in range(SHARDS)]
    found = [file for path in manifests for file in read_manifest(path)]
    assert {file.path for file in found} == {str(path) for path in files.rglob("*.cif")}
    for file in found:
        stat = Path(file.path).stat()
        assert (file.size, file.stamp, file.sha256) == (stat.st_size, f"{stat.st_size}.{stat.st_mtime_ns}", "")
        assert file.name == str(Path(file.path).relative_to(files))


@pytest.mark.parametrize("finished", [True, False], ids=["after a run", "before any"])
@pytest.mark.parametrize("change", ["add", "change", "remove", "replace with the same time"])
def test_changed_file_changes_one_shard(files, tmp_path, change, finished):
    before = list_files(str(files), tmp_path / "m", SHARDS)
    run(before) if finished else before.write()
    target = files / "deeper" / ("new.cif" if change == "add" else "3abc.cif")
    if change == "remove":
        target.unlink()
    elif change == "replace with the same time":
        replaced(target, "data_x")
    else:
        target.write_text("data_new")
    after = list_files(str(files), tmp_path / "m", SHARDS)
    assert changed(before, after) == {shard_of(str(target), SHARDS)}
    after.write()
    assert changed(after, list_files(str(files), tmp_path / "m", SHARDS)) == set()


def test_listing_neither_opens_structures_nor_writes(files, listed, tmp_path, monkeypatch):
    before = contents(tmp_path / "m")

    def guarded(opener):
        def opened(path, *others, **more):
            assert not str(path).startswith(str(files)), f"{path} was opened"
            return opener(path, *others, **more)

        return opened

    monkeypatch.setattr(io, "open", guarded(io.open))
    monkeypatch.setattr(os, "open", guarded(os.open))
    monkeypatch.setattr(builtins, "open", guarded(open))
    for folder in ("m", "elsewhere"):
        again = list_files(str(files), tmp_path / folder, SHARDS)
        assert identities(again) == identities(listed)
    assert contents(tmp_path / "m") == before
    assert not (tmp_path / "elsewhere").exists()
    again.folder = tmp_path / "m"
    again.write()
    assert contents(tmp_path / "m") == before  # existing manifests are not written again


def test_touched_file_with_recorded_content_keeps_its_identity(files, listed, tmp_path):
    target = files / "4abc.cif"
    for _ in range(3):
        touch(target)
        again = list_files(str(files), tmp_path / "m", SHARDS)
        assert identities(again) == identities(listed)
        again.write()
    replaced(target, "data_x")
    assert changed(listed, list_files(str(files), tmp_path / "m", SHARDS)) == {shard_of(str(target), SHARDS)}


def test_touched_file_without_recorded_content_is_changed(files, tmp_path):
    before = list_files(str(files), tmp_path / "m", SHARDS)
    before.write()
    touch(files / "4abc.cif")
    assert changed(before, list_files(str(files), tmp_path / "m", SHARDS)) == {shard_of("4abc.cif", SHARDS)}


def test_file_changed_and_restored_has_a_new_identity(files, listed, tmp_path):
    """The run in between wrote results of the other content."""
    target = files / "4abc.cif"
    target.write_text("data_x")
    between = run(list_files(str(files), tmp_path / "m", SHARDS))
    target.write_text("data_4")
    after = list_files(str(files), tmp_path / "m", SHARDS)
    assert changed(listed, between) == changed(between, after) == {shard_of(str(target), SHARDS)}


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree], ids=["moved", "copied with its times"])
def test_moved_folder_keeps_its_identity(files, tmp_path, move):
    before = list_files(str(files), tmp_path / "m", SHARDS)
    before.write()
    (tmp_path / "other").mkdir()
    move(str(files), str(tmp_path / "other" / "place"))
    assert identities(list_files(str(tmp_path / "other" / "place"), tmp_path / "m", SHARDS)) == identities(before)


def test_copy_with_new_times_is_identified_by_content(files, listed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(files, copy)
    for path in copy.rglob("*.cif"):
        touch(path)
    replaced(copy / "4abc.cif", "data_x")
    after = list_files(str(copy), tmp_path / "m", SHARDS)
    assert changed(listed, after) == {shard_of("4abc.cif", SHARDS)}


def test_files_with_the_same_name_are_distinguished(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "x.cif").write_text("data")
        os.utime(folder / "x.cif", ns=(10**18, 10**18))
    sources = [str(folder) for folder in folders]
    before = run(list_files(sources, tmp_path / "m", 1))
    replaced(folders[0] / "x.cif", "DATA")
    assert changed(before, list_files(sources, tmp_path / "m", 1)) == {0}
    replaced(folders[0] / "x.cif", "data")
    assert identities(list_files(sources, tmp_path / "m", 1)) == identities(before)
    touch(folders[0] / "x.cif")
    assert identities(touched := list_files(sources, tmp_path / "m", 1)) == identities(before)
    touched.write()
    replaced(folders[0] / "x.cif", "DATA")
    assert changed(before, list_files(sources, tmp_path / "m", 1)) == {0}


def test_fewer_shards_remove_stale_manifests(files, tmp_path):
    list_files(str(files), tmp_path / "m", SHARDS).write()
    list_files(str(files), tmp_path / "m", 2).write()
    assert len(list((tmp_path / "m").glob("part-*.tsv"))) == 2


def test_irrelevant_files_are_skipped_unless_named(files, tmp_path):
    for name in ("notes.md", ".hidden.cif", "MANIFEST.csv", "plain"):
        (files / name).write_text("x")
    found = [file.path for file in read_manifest(list_files(str(files), tmp_path / "m", 1).write()[0])]
    assert len(found) == 41
    assert str(files / "plain") in found
    named = list_files([str(files / "notes.md"), str(files / "deeper" / "*.cif")], tmp_path / "n", 1).write()
    assert len(read_manifest(named[0])) == 21


def test_files_with_possibly_equal_chain_names_share_a_shard():
    names = ["1abc.cif", "x/1ABC.pdb.gz", "1abc_A.bcif.gz", "pdb1abc.ent", "y/1abc_b1.cif.gz"]
    for shards in (7, 100):
        assert len({shard_of(name, shards) for name in names}) == 1
    assert len({shard_of(f"{i}.pdb", 100) for i in range(2000)}) == 100


def test_entry_names_are_derived_from_file_names():
    names = {
        "a/b/1ABC.pdb.gz": "1ABC", "pdb1abc.ent.gz": "1abc", "AF-P1-F1-model_v4.cif.gz": "AF-P1-F1-model_v4",
        "x.tar.gz": "x", "x.tgz": "x", "1y1vS": "1y1vS", "1.5A.model.bcif": "1.5A.model", ".pdb": ".pdb", "m.fcz": "m",
    }  # fmt: skip
    assert {name: entry_name(name) for name in names} == names


def test_missing_inputs_are_named(tmp_path):
    with pytest.raises(DPLM2Error, match="absent: no such file or folder"):
        list_files("absent", tmp_path / "m", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DPLM2Error, match="no structure files"):
        list_files(str(tmp_path / "empty"), tmp_path / "m", 1)
    (tmp_path / "empty" / "a\tb.cif").touch()
    with pytest.raises(DPLM2Error, match="with tabs"):
        list_files(str(tmp_path / "empty"), tmp_path / "m", 1)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n", "not a manifest"),
        (f"{manifest.HEADER}\na.cif\t0\t3.1", "truncated"),
        (f"{manifest.HEADER}\na.cif\t0\n", "an invalid line"),
        (f"{manifest.HEADER}\na.cif\tzero\t3.1\t5\n", "an invalid line"),
    ],
)
def test_broken_manifest_is_refused(tmp_path, text, message):
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(DPLM2Error, match=message):
        read_manifest(tmp_path / "x.tsv")


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\xff\t\t\n\n", b"\nx\t9\n4abc.cif\tx\t1\t1\n"])
def test_damaged_files_of_an_earlier_run_are_ignored(files, listed, tmp_path, damage):
    for path in (tmp_path / "m").iterdir():
        path.write_bytes(damage)
    assert identities(list_files(str(files), tmp_path / "m", SHARDS)) == identities(listed)


def test_module_imports_no_heavy_library():
    code = "import sys, dplm2.structures.manifest; print({'torch', 'biotite', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("ending", ["", ".index", ".lookup"])
def test_foldcomp_database_includes_index_and_names(tmp_path, ending):
    base = tmp_path / "files" / "database"
    base.parent.mkdir()
    for other, content in (("", "records"), (".index", "0\t0\t7\n"), (".lookup", "0\tone\t0\n"), (".dbtype", "x")):
        Path(f"{base}{other}").write_text(content)
    before = run(list_files(str(base.parent), tmp_path / "m", 1))
    [file] = read_manifest(before.path(0))
    assert (file.path, file.size) == (str(base), 7)
    part = Path(f"{base}{ending}")
    touch(part)
    touched = list_files(str(base.parent), tmp_path / "m", 1)
    assert identities(touched) == identities(before)
    touched.write()
    replaced(part, part.read_text().replace("0", "1").replace("r", "R"))
    assert changed(before, list_files(str(base.parent), tmp_path / "m", 1)) == {0}


def found_in(source, tmp_path) -> list[str]:
    return [file.path for file in read_manifest(list_files(str(source), tmp_path / "m", 1).write()[0])]


def test_linked_folders_are_followed_once(files, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "9xyz.cif").write_text("data_9")
    (files / "linked").symlink_to(other)
    (files / "twice").symlink_to(other)
    # A folder in the tree keeps its own path; a link to it adds nothing.
    (files / "again").symlink_to(files / "deeper")
    found = found_in(files, tmp_path)
    assert len(found) == 41
    assert str(files / "linked/9xyz.cif") in found
    assert str(files / "deeper/1abc.cif") in found


@pytest.mark.parametrize("through", [False, True])
def test_circular_links_are_refused(files, tmp_path, through):
    if through:
        other = tmp_path / "elsewhere"
        other.mkdir()
        (files / "linked").symlink_to(other)
        (other / "back").symlink_to(files)
    else:
        (files / "deeper/loop").symlink_to(files)
    with pytest.raises(DPLM2Error, match=r"(back|loop): a link to a folder above it"):
        found_in(files, tmp_path)


@pytest.mark.parametrize("pattern", [False, True])
def test_broken_links_become_rejects(files, tmp_path, pattern):
    import pyarrow.parquet as pq

    from dplm2.structures.shards import clean_shard
    from tests.structures.made import settings

    (files / "gone.cif").symlink_to(tmp_path / "nowhere.cif")
    (files / "self.cif").symlink_to(files / "self.cif")
    (files / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    source = f"{files}/*.cif" if pattern else str(files)
    before = list_files(source, tmp_path / "m", 1)
    [path] = before.write()
    broken = [file for file in read_manifest(path) if file.path.endswith(("gone.cif", "self.cif"))]
    assert len(broken) == 2
    clean_shard(broken, settings(), "d", tmp_path / "part.parquet", tmp_path / "rejected.parquet", 0)
    rows = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [(row["code"], row["reason"]) for row in rows] == [("unreadable", "a broken link")] * 2
    # Once repaired, it is a different file.
    (tmp_path / "nowhere.cif").write_text("data_x")
    assert changed(before, list_files(source, tmp_path / "m", 1)) == {0}


def test_unreadable_folder_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "x").mkdir(mode=0)
    with pytest.raises(DPLM2Error, match="x: cannot be read"):
        found_in(tmp_path, tmp_path / "out")
