"""Failures give one line that names the file or folder, without a traceback, and damaged data are never read."""

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dplm2 import cli
from dplm2.core import artifacts, locks, parquet
from dplm2.core.errors import DPLM2Error
from dplm2.core.locks import writing_into
from dplm2.generation.contigs import read_problem
from dplm2.structures.store import read_chains
from dplm2.tokenizer.importing import read_official_config
from dplm2.tokenizer.tokens import read_tokens
from dplm2.training.log import MetricLog
from tests import fuzz_seeds

DEMO = Path(__file__).parents[1] / "data/demo/train"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{here}: &{here} [{', '.join([f'*{before}'] * 9)}]\n" for before, here in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A tiny tokenizer, a tiny model, and tables."""
    return fuzz_seeds.make(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def run(capfd):
    """Runs the command; returns its exit status and its last line on the terminal, which is not a traceback."""

    def command(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        text = capfd.readouterr().err
        assert "Traceback" not in text
        return status, text.strip().splitlines()[-1] if text.strip() else ""

    return command


def clean(out):
    return "structures", "clean", DEMO, "--out", out, "--workers", 0, "--set", "filters.min_length=5"


def encode(sound, out):
    return "tokens", "encode", sound / "chains.parquet", "--tokenizer", sound / "tokenizer", "--out", out


def generate(sound, out):
    return (
        *("generate", "sequence", "--model", sound / "model", "--out", out),
        *("--set", "lengths=[30]", "--set", "samples=2", "--set", "steps=2"),
    )


COMMANDS = {"clean": lambda _, out: clean(out), "encode": encode, "generate": generate}


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disk_is_a_one_line_error_naming_the_folder(sound, tmp_path, run, monkeypatch, name):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(artifacts.os, "fsync", no_space)
    status, line = run(*COMMANDS[name](sound, tmp_path / "out"))
    assert (status, line.startswith(f"dplm2: {tmp_path / 'out'}")) == (1, True), line
    assert "no space left" in line


@pytest.mark.parametrize("name", ["clean", "generate"])
def test_file_size_limit_is_a_one_line_error(sound, tmp_path, run, name):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        status, line = run(*COMMANDS[name](sound, tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    assert str(tmp_path / "out") in line
    assert "exceeds the maximum file size" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_unwritable_folder_is_named(sound, tmp_path, run, monkeypatch, name):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    status, line = run(*COMMANDS[name](sound, tmp_path / "out"))
    assert (status, line) == (1, f"dplm2: {tmp_path / 'out'}: this folder cannot be created (Read-only file system)")


@pytest.mark.parametrize("name", COMMANDS)
def test_file_in_place_of_the_output_folder_is_named(sound, tmp_path, run, name):
    (tmp_path / "out").write_text("mine")
    status, line = run(*COMMANDS[name](sound, tmp_path / "out"))
    assert (status, line.startswith(f"dplm2: {tmp_path / 'out'}: not a folder")) == (1, True), line
    assert (tmp_path / "out").read_text() == "mine"


def test_unwritable_log_raises_a_one_line_error(tmp_path, run):
    (tmp_path / "file").write_text("")
    status, line = run("--log", tmp_path / "file/a.log", "status")
    assert status == 1
    assert line.startswith(f"dplm2: --log: {tmp_path / 'file'}: not a folder")


@pytest.mark.parametrize("size", [0, 7, 200])
def test_truncated_weights_are_named(sound, tmp_path, run, size):
    for kind in ("model", "tokenizer"):
        shutil.copytree(sound / kind, tmp_path / kind)
        weights = tmp_path / kind / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:size])
    for status, line in (
        run(*generate(tmp_path, tmp_path / "out")),
        run(*encode(sound, tmp_path / "tokens")[:4], tmp_path / "tokenizer", "--out", tmp_path / "tokens"),
    ):
        assert status == 1
        assert str(tmp_path) in line


@pytest.mark.parametrize("kind", ["model", "tokenizer"])
def test_flipped_bit_in_weights_is_detected(sound, tmp_path, run, kind):
    shutil.copytree(sound, tmp_path / "sound")
    weights = tmp_path / "sound" / kind / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    command = generate if kind == "model" else encode
    arguments = command(tmp_path / "sound", tmp_path / "out")
    status, line = run(*arguments)
    assert status == 1
    assert f"{weights}: damaged" in line


@pytest.mark.parametrize(("name", "read"), [("chains", read_chains), ("tokens", read_tokens)])
def test_flipped_bit_in_a_shard_is_detected(sound, tmp_path, name, read):
    part = tmp_path / "part-00000.parquet"
    shutil.copy(sound / f"{name}.parquet", part)
    expected, content, draw = read(tmp_path), part.read_bytes(), random.Random(0)
    for place in draw.sample(range(len(content)), 300):
        broken = bytearray(content)
        broken[place] ^= 1 << draw.randrange(8)
        part.write_bytes(broken)
        try:
            found = read(tmp_path)
        except DPLM2Error as error:
            assert "part-00000.parquet" in str(error)
        else:
            assert found.equals(expected)
            assert found.schema.metadata == expected.schema.metadata


def test_missing_shards_are_named(sound, tmp_path):
    for number in (0, 2):
        shutil.copy(sound / "tokens.parquet", tmp_path / f"part-{number:05d}.parquet")
    with pytest.raises(DPLM2Error, match=r"part-00001\.parquet: missing"):
        read_tokens(tmp_path)
    (tmp_path / "part-00002.parquet").unlink()
    artifacts.write_json(tmp_path / "run.json", {"parts": 3})
    with pytest.raises(DPLM2Error, match="1 of its 3 parts"):
        read_tokens(tmp_path)


def test_damaged_selection_is_named(sound, tmp_path):
    shutil.copy(sound / "chains.parquet", tmp_path / "part-00000.parquet")
    (tmp_path / "selection.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DPLM2Error, match=r"selection\.parquet"):
        read_chains(tmp_path)


def test_damaged_metrics_lose_only_their_rows(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"step,loss\n1,2.5\n" + bytes(range(256)) * 9 + b"\n2,1.5\n3," + b"9" * 200_000)
    log = MetricLog(file, tmp_path / "published.csv", step=10)
    assert log.last()["loss"] in (1.5, 2.5)


def test_expanding_yaml_is_refused_quickly(tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMB)
    start = time.monotonic()
    for read in (read_problem, read_official_config):
        with pytest.raises(DPLM2Error, match=r"bomb\.yaml.*aliases expand"):
            read(path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "[1]", "\x00"])
def test_invalid_json_is_refused(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(DPLM2Error, match=r"run\.json"):
        artifacts.read_json_object(path)


def _hold(folder):
    with writing_into(folder, "generate folding"):
        time.sleep(60)


@pytest.mark.parametrize("name", ["clean", "generate"])
def test_second_command_in_the_same_folder_is_refused(sound, tmp_path, run, monkeypatch, name):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.0)
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "out",))
    process.start()
    try:
        while not (tmp_path / "out" / locks.FOLDER_LOCK).exists():
            time.sleep(0.01)
        time.sleep(0.1)
        status, line = run(*COMMANDS[name](sound, tmp_path / "out"))
    finally:
        process.kill()
        process.join()
    assert status == 1
    assert f"process {process.pid} on" in line
    assert "generate folding" in line


def test_generating_with_other_settings_replaces_all_samples(sound, tmp_path, run):
    out = tmp_path / "out"
    assert run(*generate(sound, out))[0] == 0
    for folder in ("structures", "trajectories"):
        (out / folder).mkdir(exist_ok=True)
        (out / folder / "sequence-30-1.bcif").write_bytes(b"of before")
    (out / "structures" / "mine.txt").write_text("mine")
    assert run(*generate(sound, out), "--set", "samples=1")[0] == 0
    assert len(parquet.read_table(out / "samples.parquet")) == 1
    assert not list(out.rglob("*.bcif"))
    assert (out / "structures" / "mine.txt").exists()
    assert not list(out.glob(".lock"))


def test_encoding_another_dataset_removes_old_parts(sound, tmp_path, run):
    for dataset, parts in (("first", 3), ("second", 1)):
        for number in range(parts):
            table = pq.read_table(sound / "chains.parquet", partitioning=None).slice(number * 10, 10)
            parquet.write_table(tmp_path / dataset / f"part-{number:05d}.parquet", table)
    for dataset, parts in (("first", 3), ("second", 1)):
        command = "tokens", "encode", tmp_path / dataset, "--tokenizer", sound / "tokenizer", "--out", tmp_path / "out"
        assert run(*command)[0] == 0
        assert len(list((tmp_path / "out").glob("part-*.parquet"))) == parts
        assert json.loads((tmp_path / "out/run.json").read_text())["parts"] == parts


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "dplm2: /data: no space left"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "dplm2: /data: x cannot be written in this folder"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/y"), "dplm2: /data/y: No such file"),
        (MemoryError(), "dplm2: memory ran out"),
        (TypeError("an int"), "dplm2: unexpected error, please report it: TypeError: an int (traceback: /"),
    ],
)
def test_unexpected_error_is_one_line(run, monkeypatch, error, line):
    def fail(*_):
        raise error

    monkeypatch.setattr("dplm2.report.status._run_status", fail)
    status, found = run("status")
    assert status == 1
    assert found.startswith(line)
    if "traceback: " in found:
        path = Path(found.split("traceback: ")[1].rstrip(")"))
        assert "TypeError: an int" in path.read_text()
        path.unlink()


def test_traceback_is_shown_on_request(capfd, monkeypatch):
    def fail(*_):
        raise TypeError("an int")

    monkeypatch.setattr("dplm2.report.status._run_status", fail)
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert cli.main(["status"]) == 1
    assert "Traceback (most recent call last)" in capfd.readouterr().err
