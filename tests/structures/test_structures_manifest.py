"""Manifests: one changed file, one changed shard; nothing read twice; quick enough to run at every start."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dplm2.errors import DPLM2Error
from dplm2.structures import manifest
from dplm2.structures.manifest import entry_name, read_manifest, shard_of, update_manifest

SHARDS = 8


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "structures"
    (folder / "deeper").mkdir(parents=True)
    for i in range(40):
        (folder / ("deeper" if i % 2 else "") / f"{i}abc.cif").write_text(f"data_{i}")
    return folder


def state(manifests):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in manifests}


def changed(before, after):
    return {name for name in after if after[name] != before.get(name)}


def test_a_manifest_lists_every_file_with_its_size_and_hash(files, tmp_path):
    manifests = update_manifest(str(files), tmp_path / "m", SHARDS)
    assert [path.name for path in manifests] == [f"part-{i:05d}.tsv" for i in range(SHARDS)]
    listed = [file for path in manifests for file in read_manifest(path)]
    assert len(listed) == 40
    for file in listed:
        data = open(file.path, "rb").read()  # noqa: PTH123, SIM115
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("change", ["add", "change", "remove", "replace with an older time"])
def test_one_file_changes_one_shard(files, tmp_path, change):
    before = state(update_manifest(str(files), tmp_path / "m", SHARDS))
    target = files / "deeper" / ("new.cif" if change == "add" else "3abc.cif")
    if change == "remove":
        target.unlink()
    elif change == "replace with an older time":
        times = target.stat()
        target.write_text("data_x")
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        target.write_text("data_new")
    after = state(update_manifest(str(files), tmp_path / "m", SHARDS))
    assert changed(before, after) == {f"part-{shard_of(str(target), SHARDS):05d}.tsv"}


def test_nothing_changed_writes_nothing_and_reads_nothing(files, tmp_path, monkeypatch):
    before = state(update_manifest(str(files), tmp_path / "m", SHARDS))
    monkeypatch.setattr(manifest, "sha256_of_file", lambda path: pytest.fail(f"{path} was read again"))
    assert changed(before, state(update_manifest(str(files), tmp_path / "m", SHARDS))) == set()


def test_fewer_shards_leave_no_stale_manifest(files, tmp_path):
    update_manifest(str(files), tmp_path / "m", SHARDS)
    update_manifest(str(files), tmp_path / "m", 2)
    assert len(list((tmp_path / "m").glob("part-*.tsv"))) == 2


def test_hidden_files_and_endings_without_structures_are_skipped_unless_named(files, tmp_path):
    for name in ("notes.md", ".hidden.cif", "MANIFEST.csv", "plain"):
        (files / name).write_text("x")
    found = [file.path for file in read_manifest(update_manifest(str(files), tmp_path / "m", 1)[0])]
    assert len(found) == 41
    assert str(files / "plain") in found
    named = update_manifest([str(files / "notes.md"), str(files / "deeper" / "*.cif")], tmp_path / "n", 1)
    assert len(read_manifest(named[0])) == 21


def test_names_that_could_give_one_chain_share_a_shard():
    names = ["1abc.cif", "x/1ABC.pdb.gz", "1abc_A.bcif.gz", "pdb1abc.ent", "y/1abc_b1.cif.gz"]
    for shards in (7, 100):
        assert len({shard_of(name, shards) for name in names}) == 1
    assert len({shard_of(f"{i}.pdb", 100) for i in range(2000)}) == 100


def test_entry_names():
    names = {
        "a/b/1ABC.pdb.gz": "1ABC", "pdb1abc.ent.gz": "1abc", "AF-P1-F1-model_v4.cif.gz": "AF-P1-F1-model_v4",
        "x.tar.gz": "x", "x.tgz": "x", "1y1vS": "1y1vS", "1.5A.model.bcif": "1.5A.model", ".pdb": ".pdb", "m.fcz": "m",
    }  # fmt: skip
    assert {name: entry_name(name) for name in names} == names


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DPLM2Error, match="absent: no such file or folder"):
        update_manifest("absent", tmp_path / "m", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DPLM2Error, match="no structure files"):
        update_manifest(str(tmp_path / "empty"), tmp_path / "m", 1)
    (tmp_path / "empty" / "a\tb.cif").touch()
    with pytest.raises(DPLM2Error, match="with a tab"):
        update_manifest(str(tmp_path / "empty"), tmp_path / "m", 1)
    (tmp_path / "x.tsv").write_text("a\tb\n")
    with pytest.raises(DPLM2Error, match="not a manifest"):
        read_manifest(tmp_path / "x.tsv")


def test_the_module_needs_no_heavy_library():
    code = "import sys, dplm2.structures.manifest; print({'torch', 'biotite', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("ending", ["", ".index", ".lookup"])
def test_a_foldcomp_database_is_its_index_and_names_too(tmp_path, ending):
    base = tmp_path / "files" / "database"
    base.parent.mkdir()
    for other, content in (("", "records"), (".index", "0\t0\t7\n"), (".lookup", "0\tone\t0\n"), (".dbtype", "x")):
        Path(f"{base}{other}").write_text(content)
    [manifest] = update_manifest(str(base.parent), tmp_path / "manifests", 1)
    [before] = read_manifest(manifest)
    assert (before.path, before.size) == (str(base), 7)
    times = manifest.stat().st_mtime_ns
    update_manifest(str(base.parent), tmp_path / "manifests", 1)
    assert manifest.stat().st_mtime_ns == times
    changed = Path(f"{base}{ending}")
    changed.write_text(changed.read_text().replace("0", "1").replace("r", "R"))
    update_manifest(str(base.parent), tmp_path / "manifests", 1)
    [after] = read_manifest(manifest)
    assert (after.path, after.size) == (before.path, before.size)
    assert after.sha256 != before.sha256


def listed(source, tmp_path) -> list[str]:
    folder = tmp_path / "m"
    return [file.path for path in update_manifest(str(source), folder, 1) for file in read_manifest(path)]


def test_linked_folders_are_followed_once(files, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "9xyz.cif").write_text("data_9")
    (files / "linked").symlink_to(other)
    (files / "twice").symlink_to(other)
    # A folder that is there anyway keeps its own path; a link to it adds nothing.
    (files / "again").symlink_to(files / "deeper")
    found = listed(files, tmp_path)
    assert len(found) == 41
    assert str(files / "linked/9xyz.cif") in found
    assert str(files / "deeper/1abc.cif") in found


@pytest.mark.parametrize("through", [False, True])
def test_links_in_a_circle_are_refused(files, tmp_path, through):
    if through:
        other = tmp_path / "elsewhere"
        other.mkdir()
        (files / "linked").symlink_to(other)
        (other / "back").symlink_to(files)
    else:
        (files / "deeper/loop").symlink_to(files)
    with pytest.raises(DPLM2Error, match=r"(back|loop): a link to a folder above it"):
        listed(files, tmp_path)


@pytest.mark.parametrize("pattern", [False, True])
def test_broken_links_become_rejects(files, tmp_path, pattern):
    import pyarrow.parquet as pq

    from dplm2.structures.shards import clean_shard
    from tests.structures.made import settings

    (files / "gone.cif").symlink_to(tmp_path / "nowhere.cif")
    (files / "self.cif").symlink_to(files / "self.cif")
    (files / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    [path] = update_manifest(f"{files}/*.cif" if pattern else str(files), tmp_path / "m", 1)
    broken = [file for file in read_manifest(path) if file.path.endswith(("gone.cif", "self.cif"))]
    assert len(broken) == 2
    clean_shard(broken, settings(), "d", tmp_path / "part.parquet", tmp_path / "rejected.parquet", 0)
    rows = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [(row["code"], row["reason"]) for row in rows] == [("unreadable", "a broken link")] * 2
    # Mended, it is another file.
    before = path.read_bytes()
    (tmp_path / "nowhere.cif").write_text("data_x")
    update_manifest(f"{files}/*.cif" if pattern else str(files), tmp_path / "m", 1)
    assert path.read_bytes() != before


def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "x").mkdir(mode=0)
    with pytest.raises(DPLM2Error, match="x: cannot be read"):
        listed(tmp_path, tmp_path / "out")
