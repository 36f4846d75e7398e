"""The command line, and cleaning with several processes."""

import json
import os
import shutil
import time

import pytest

from dplm2 import cli
from dplm2.structures import shards
from dplm2.structures.manifest import SourceFile, list_files
from dplm2.structures.store import read_chains, read_rejected
from tests.structures.made import chain, settings

ALONE = ["--workers", "0"]


@pytest.fixture
def inputs(tmp_path):
    """Five files: four chains with different sequences, and one broken file."""
    folder = tmp_path / "in"
    folder.mkdir()
    for letter in "ACDE":
        (folder / f"{letter}.pdb").write_text("\n".join([*chain(letter * 50), "END\n"]))
    (folder / "broken.pdb").write_text("no structure\n")
    return folder


def clean(inputs, out, **dataset) -> int:
    source = json.dumps({"datasets": {"d": {"files": str(inputs), **dataset}}})
    return cli.main(["structures", "clean", str(inputs), "--out", str(out), "--config", source, *ALONE])


def test_command_cleans_a_folder(inputs, tmp_path, capsys):
    assert clean(inputs, tmp_path / "out", shards=3) == 0
    assert "4 chains (4 train); 1 rejected" in capsys.readouterr().out
    assert sorted(read_chains(tmp_path / "out")["chain_id"].to_pylist()) == ["A_A", "C_A", "D_A", "E_A"]
    rejected = read_rejected(tmp_path / "out").to_pylist()
    assert [(row["source_file"], row["code"]) for row in rejected] == [(str(inputs / "broken.pdb"), "unreadable")]
    assert json.loads((tmp_path / "out/run.json").read_text())["chains"] == 4


def test_single_parts_give_the_same_files(inputs, tmp_path):
    """The workflow, which cleans manifest by manifest, and the command for a dataset give the same files."""
    assert clean(inputs, tmp_path / "whole", shards=2) == 0
    source = json.dumps({"datasets": {"d": {"files": str(inputs), "shards": 2}}})
    for manifest in list_files(str(inputs), tmp_path / "m", 2).write():
        call = ["structures", "clean", "--manifest", str(manifest), "--out", str(tmp_path / "parts")]
        assert cli.main([*call, "--config", source, "--name", "d", *ALONE]) == 0
    assert cli.main(["structures", "select", str(tmp_path / "parts"), "--config", source, "--name", "d"]) == 0
    for name in ("part-00000.parquet", "part-00001.parquet", "selection.parquet", "rejected.parquet"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_fewer_shards_remove_stale_parts(inputs, tmp_path):
    assert clean(inputs, tmp_path / "out", shards=4) == 0
    assert clean(inputs, tmp_path / "out", shards=1) == 0
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 1
    assert len(read_chains(tmp_path / "out")) == 4


def test_run_without_usable_chains_exits_with_1(inputs, tmp_path, capsys):
    assert clean(inputs, tmp_path / "out") == 0
    capsys.readouterr()
    for file in inputs.glob("[ACDE].pdb"):
        file.unlink()
    assert clean(inputs, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "no usable chain; 1 unreadable" in message
    assert not (tmp_path / "out/selection.parquet").exists()


@pytest.mark.parametrize("change", ["content", "touched", "removed"])
def test_file_changed_after_its_manifest_is_refused(inputs, tmp_path, capsys, change):
    """The job would record other content than that of the workflow's plan."""
    [manifest] = list_files(str(inputs), tmp_path / "m", 1).write()
    file = inputs / "D.pdb"
    if change == "content":
        file.write_text("\n".join([*chain("D" * 60), "END\n"]))
    elif change == "touched":
        os.utime(file, (0, 0))
    else:
        file.unlink()
    call = ["structures", "clean", "--manifest", str(manifest), "--out", str(tmp_path / "out")]
    assert cli.main([*call, *ALONE]) == 1
    message = capsys.readouterr().err
    assert message == f"dplm2: {file}: changed or removed since the dataset was listed; run again\n"
    assert not list(tmp_path.glob("out/part-*")) and not list(tmp_path.glob("m/hashes-*"))


def test_cleaned_part_records_the_hashes_of_its_files(inputs, tmp_path):
    before = list_files(str(inputs), tmp_path / "m", 1)
    [manifest] = before.write()
    call = ["structures", "clean", "--manifest", str(manifest), "--out", str(tmp_path / "out")]
    assert cli.main([*call, *ALONE]) == 0
    for path in inputs.iterdir():
        os.utime(path, (0, 0))
    again = list_files(str(inputs), tmp_path / "m", 1)
    assert again.identity(0) == before.identity(0)
    assert again.manifests != before.manifests


def test_parts_beyond_the_shards_are_ignored_but_kept(inputs, tmp_path):
    """A later run may have more parts again."""
    out = tmp_path / "out"
    assert clean(inputs, out, shards=2) == 0
    files, everything = sorted(out.glob("part-*.parquet")), read_chains(out)["chain_id"].to_pylist()
    parts = [path.read_bytes() for path in files]
    for count in (1, 2):
        assert cli.main(["structures", "select", str(out), "--shards", str(count)]) == 0
        assert [path.read_bytes() for path in files] == parts
        found = read_chains(out)["chain_id"].to_pylist()
        assert found == [name for path in files[:count] for name in read_chains(path)["chain_id"].to_pylist()]
    assert 0 < len(read_chains(files[0])) < len(everything)
    assert found == everything
    assert cli.main(["structures", "select", str(out), "--shards", "3"]) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["clean", "absent", "--out", "out"], 1, "absent: no such file or folder"),
        (["clean", "--out", "out"], 2, "give files or folders, or --manifest, or a --config"),
        (["clean", "x", "--out", "out", "--config", '{"datasets": {"d": {"files": "x", "sharts": 1}}}'], 2, "sharts"),
        (
            ["clean", "x", "--out", "out", "--config", "{}", "--name", "d"],
            2,
            "--name: datasets has no 'd'; available: none",
        ),
        (["select", "absent"], 1, "absent: no such folder"),
    ],
)
def test_wrong_use_is_a_one_line_error(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["structures", *arguments]) == status
    assert message in capsys.readouterr().err


def treacherous(items, own):
    """A reader that crashes on one file, as a parser in C may, and hangs on another."""
    unread = [item.source_file for item in items if not item.problem]
    if any("C.pdb" in name for name in unread):
        os._exit(11)
    if any("E.pdb" in name for name in unread):
        time.sleep(600)
    return shards.clean_batch(items, own)


def test_crashing_or_hanging_reader_costs_one_file(inputs, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_ITEMS", 1)
    monkeypatch.setattr(shards, "BATCHES_PER_WORKER", 1)
    monkeypatch.setattr(shards, "BATCH_SECONDS", 8)
    monkeypatch.setattr(shards, "ITEM_SECONDS", 8)
    files = [SourceFile(str(path), 1, "0") for path in sorted(inputs.iterdir())]
    results = list(shards._results(files, settings(), 2, shards.Counts(files=5), treacherous))
    assert [name for result in results for name in result.chains["chain_id"].to_pylist()] == ["A_A", "D_A"]
    rejects = {reject.source_file.rsplit("/", 1)[-1]: reject for result in results for reject in result.rejects}
    assert set(rejects) == {"C.pdb", "E.pdb", "broken.pdb"}
    assert rejects["C.pdb"].reason == "the reader crashed on this file"
    assert "takes longer than" in rejects["E.pdb"].reason


def test_several_processes_write_the_same_bytes(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_ITEMS", 2)
    for i in range(10):
        shutil.copy(inputs / "A.pdb", inputs / f"copy{i}.pdb")
    files = [SourceFile(str(path), 1, "0") for path in sorted(inputs.iterdir())]
    for name, workers in (("one", 0), ("many", 2)):
        part, rejected = tmp_path / name / "part-00000.parquet", tmp_path / name / "rejected.parquet"
        counts = shards.clean_shard(files, settings(), "d", part, rejected, workers)
        assert (counts.files, counts.chains, counts.rejects) == (15, 14, {"unreadable": 1})
    for name in ("part-00000.parquet", "rejected.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


@pytest.mark.parametrize(
    ("plddt", "head", "warned"),
    [
        ("auto", "", True),
        ("none", "", False),
        ("b_factor", "", False),
        ("auto", "PARENT N/A\n", False),
        ("auto", "EXPDTA    X-RAY DIFFRACTION\n", False),
    ],
)
def test_filters_without_data_warn_once(inputs, tmp_path, caplog, plddt, head, warned):
    """Four models of pLDDT 90, whose headers mark them as predictions or not."""
    for file in inputs.glob("[ACDE].pdb"):
        file.write_text(head + file.read_text().replace(" 20.00 ", " 90.00 "))
    found = {"reading": {"plddt": plddt}, "filters": {"min_plddt": 70}, "shards": 3}
    assert clean(inputs, tmp_path / "out", **found) == 0
    messages = [record.getMessage() for record in caplog.records if "pLDDT" in record.getMessage()]
    assert len(messages) == warned
    if warned:
        assert "dataset d: the pLDDT filters skipped 4 chains" in messages[0]
        assert "datasets.d.reading.plddt" in messages[0]
    assert json.loads((tmp_path / "out/run.json").read_text())["unjudged"] == 4 * warned
    assert clean(inputs, tmp_path / "out", reading={"plddt": plddt}) == 0
    assert len([one for one in caplog.records if "pLDDT" in one.getMessage()]) == warned
