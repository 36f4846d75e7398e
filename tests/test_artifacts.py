"""Files are written whole or not at all, and say what made them."""

import json

import pytest

from dplm2 import artifacts
from dplm2.errors import DPLM2Error


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value.json"
    artifacts.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_fingerprint_depends_on_content_not_on_order():
    assert artifacts.fingerprint({"a": 1, "b": [1, 2]}) == artifacts.fingerprint({"b": [1, 2], "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})


def test_sha256_of_a_known_file(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # the test vector of FIPS 180-4
    assert artifacts.sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_run_record_says_what_made_the_artifact(tmp_path):
    artifacts.RunRecord("tokens encode", {"bits": 5}, {"chains": "abc"}).write(tmp_path, chains=7)
    run = artifacts.read_json(tmp_path / "run.json")
    assert run["settings"] == {"bits": 5}
    assert run["inputs"] == {"chains": "abc"}
    assert run["chains"] == 7
    assert "torch" in run["versions"]
    assert run["peak_memory_bytes"] > 1e6


def test_unreadable_json_is_one_clear_line(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(DPLM2Error, match="no such file"):
        artifacts.read_json(path)
    path.write_text("{")
    with pytest.raises(DPLM2Error, match="not a JSON file"):
        artifacts.read_json(path)
