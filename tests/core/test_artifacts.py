"""Files are written atomically, with a record of the run."""

import ast
import json
import os
import stat
from pathlib import Path

import pytest

from dplm2.core import artifacts
from dplm2.core.artifacts import RunRecord
from dplm2.core.errors import DPLM2Error

ROOT = Path(__file__).parents[2]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    artifacts.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_file_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    """After a power failure either the old or the new file exists: the order is sync, rename, sync of the folder."""
    events, sync, replace = [], os.fsync, os.replace

    def noted_sync(handle):
        status = os.fstat(handle)
        folder = stat.S_ISDIR(status.st_mode)
        events.append("folder" if folder else f"file of {status.st_size}")
        assert not folder or status.st_ino == tmp_path.stat().st_ino
        sync(handle)

    def noted_replace(source, target):
        events.append(f"renamed to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    artifacts.write_text(tmp_path / "value", "seven c")
    assert events == ["file of 7", "renamed to value", "folder"]
    assert (tmp_path / "value").read_text() == "seven c"


def test_fingerprint_depends_on_content_not_on_order():
    assert artifacts.fingerprint({"a": 1, "b": [1, 2]}) == artifacts.fingerprint({"b": [1, 2], "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})


def test_sha256_of_a_known_file(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # the test vector of FIPS 180-4
    assert artifacts.sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_run_record_names_command_settings_and_inputs(tmp_path):
    artifacts.RunRecord("tokens encode", {"bits": 5}, {"chains": "abc"}).write(tmp_path, chains=7)
    run = artifacts.read_json(tmp_path / "run.json")
    assert run["settings"] == {"bits": 5}
    assert run["inputs"] == {"chains": "abc"}
    assert run["chains"] == 7
    assert "torch" in run["versions"]
    assert run["peak_memory_bytes"] > 1e6


def test_unreadable_json_raises_a_one_line_error(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(DPLM2Error, match="no such file"):
        artifacts.read_json(path)
    path.write_text("{")
    with pytest.raises(DPLM2Error, match="not a JSON file"):
        artifacts.read_json(path)


def test_a_record_of_other_inputs_goes_before_anything_is_written(tmp_path):
    """Otherwise files of an interrupted run would have the record of the former one."""
    record = RunRecord("encode", {"size": 1}, {"chains": "a"})
    record.write(tmp_path)
    (tmp_path / "groups.csv").touch()
    RunRecord("encode", {"size": 1}, {"chains": "a"}).supersede(tmp_path, "groups.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "groups.csv"}
    RunRecord("encode", {"size": 1}, {"chains": "b"}).supersede(tmp_path, "groups.csv")
    assert list(tmp_path.iterdir()) == []


def test_whoever_writes_a_record_removes_the_former_one_first():
    writing = {}
    for path in sorted((ROOT / "dplm2").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                calls = [call for call in ast.walk(function) if isinstance(call, ast.Call)]
                found = {ast.unparse(call.func): call.lineno for call in calls}
                if "record.write" in found and function.name != "write_report":  # which removes what the former names
                    writing[f"{path.name}: {function.name}"] = found.get("record.supersede", 10**6)
                    assert writing[f"{path.name}: {function.name}"] < found["record.write"], (path, function.name)
    assert len(writing) > 15
