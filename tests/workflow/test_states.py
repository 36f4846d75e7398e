"""After a finished run: `dplm2 status`, `dplm2 clean`, and Snakemake's between-workflow cache."""

import copy
import io
import os
import shutil
import signal
import time

import pytest
import yaml

from dplm2.cli import main
from tests.workflow.conftest import FEW_STEPS, Workdir, contents

pytestmark = pytest.mark.workflow
STAGES = ("tokenizer", "sequence-stage", "model")


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of the finished run."""
    shutil.copytree(finished.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def written(run, name, kind, change):
    """A configuration of the run with other training settings of its tokenizer or model."""
    changed = copy.deepcopy(yaml.safe_load((run / "config.yaml").read_text()))
    changed[kind]["tiny"]["training"] = {**changed[kind]["tiny"]["training"], **change}
    (run / name).write_text(yaml.safe_dump(changed))
    return name


def left(run):
    return {stage for stage in STAGES if any((run / "state" / stage).iterdir())}


def test_nothing_is_outdated_after_a_run(run, capsys):
    assert main(["clean", "config.yaml"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert main(["status", "--config", "config.yaml"]) == 0
    said = capsys.readouterr().out
    assert "stale" not in said and "not recorded" not in said and "not of this program" not in said
    assert said.count("of models.tiny") == 2 and said.count("of tokenizers.tiny") == 1
    size = sum(file.stat().st_size for file in (run / "results/models/tiny").iterdir() if file.is_file())
    (line,) = [line for line in said.splitlines() if "models/tiny " in line]
    assert f"{size / 1000:.1f} kB  model train, " in line


def test_only_unused_states_are_removed_after_confirmation(run, capsys, monkeypatch):
    before = contents(run / "results")
    other = written(run, "other.yaml", "models", {"learning_rate": 0.5})
    operating = written(run, "operating.yaml", "models", {"keep": 7, "log_every": 2})
    assert main(["clean", operating]) == 0 and "nothing to remove" in capsys.readouterr().out
    assert main(["clean", other, "config.yaml"]) == 0 and "nothing to remove" in capsys.readouterr().out
    for answer in ("\n", "no\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert main(["clean", other]) == 0
        said = capsys.readouterr().out
        assert "Remove these 1" in said and "nothing was removed" in said and "model: step 3 saved" in said
    assert left(run) == set(STAGES)
    assert main(["status", "--config", other]) == 0
    assert capsys.readouterr().out.count("stale") == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["clean", other]) == 0
    assert left(run) == {"tokenizer", "sequence-stage"}
    assert contents(run / "results") == before


def test_state_in_use_or_of_unknown_settings_is_kept(run, capsys):
    from dplm2.core.locks import locked

    other = written(run, "other.yaml", "tokenizers", {"learning_rate": 0.5})
    (state,) = (run / "state/tokenizer").iterdir()
    with locked(state / "lock"):
        assert main(["clean", other, "--yes"]) == 0
    (state / "made_from.json").unlink()
    assert main(["clean", other, "--yes"]) == 0
    assert capsys.readouterr().out.count("nothing to remove") == 2 and left(run) == set(STAGES)
    assert main(["status", "--config", other]) == 0
    assert "settings not recorded" in capsys.readouterr().out


def entries(cache):
    """The files of each result in the cache."""
    found = {}
    for path in cache.iterdir():
        found.setdefault(path.name[:64], set()).add(path.name[64:])
    return [*found.values()]


TOKENIZER = {"_weights.safetensors", "_config.json", "_card.md", "_metrics.csv", "_run.json"}
MODEL = TOKENIZER | {"_vocabulary.txt", "_tokenizer_config.json"}
# Two shards of tokens, a tokenizer, a model before and after its training.
WHOLE = [{".parquet"}, {".parquet"}, TOKENIZER, MODEL, MODEL]


def cached_run(workdir, *targets):
    done = workdir.snakemake("--cache", "--", *targets)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_second_working_directory_trains_and_encodes_nothing(finished, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(cache))
    first = Workdir(tmp_path / "first")
    shutil.copytree(finished.folder, first.folder, dirs_exist_ok=True)
    for folder in ("results/tokens", "results/tokenizers", "results/models", "state/tokenizer", "state/model"):
        shutil.rmtree(first.folder / folder)

    # Killed during its first training, it leaves nothing in the cache.
    process = first.start("--cache", "--", "models")
    while not (first.folder / "state/tokenizer").is_dir():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert entries(cache) == []
    first.snakemake("--unlock")
    cached_run(first, "models")
    assert sorted(map(sorted, entries(cache))) == sorted(map(sorted, WHOLE))

    # Only the structures are cleaned again, with what only operates changed.
    second = Workdir(tmp_path / "second")
    second.configuration["datasets"]["own"]["files"] = str(finished.files)
    shutil.copy(finished.folder / "sequences.fasta.gz", second.folder)
    second.configuration["models"]["tiny"]["training"] = {**FEW_STEPS, "keep": 7}
    said = cached_run(second, "models")
    assert "clean_structures" in said and not (second.folder / "state/tokenizer").exists()
    for folder in ("tokens", "tokenizers", "models"):
        logs = [log for log in (second.folder / "results/logs" / folder).iterdir() if log.stat().st_size]
        assert logs == []
        expected = contents(first.folder / "results" / folder)
        assert contents(second.folder / "results" / folder) == expected and len(expected) >= 2
    for folder in ("tokenizers", "models"):
        written, linked = (
            {path.name for path in (run.folder / "results" / folder).rglob("*")} for run in (finished, second)
        )
        assert linked == written

    # An incomplete result is not used.
    lost = (second.folder / "results/tokenizers/tiny/metrics.csv").resolve()
    lost.unlink()
    for folder in ("tokenizers", "tokens", "models"):
        shutil.rmtree(second.folder / "results" / folder)
    cached_run(second, "tokenizers")
    assert lost.is_file() and (second.folder / "state/tokenizer").exists()
    assert contents(second.folder / "results/tokenizers") == contents(finished.folder / "results/tokenizers")
