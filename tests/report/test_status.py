"""``dplm2 status`` lists artifacts without reading large files."""

import fcntl
import json

from dplm2.cli import main
from dplm2.core.artifacts import RunRecord


def test_status_lists_artifacts_and_running_trainings(tmp_path, capsys):
    results, state = tmp_path / "results", tmp_path / "state"
    RunRecord("tokenizer train", {}, {}).write(results / "tokenizers" / "demo")
    training = state / "model" / "abc"
    training.mkdir(parents=True)
    (training / "latest.json").write_text(json.dumps({"file": "step-7.safetensors", "step": 7}))
    (training / "step-7.json").write_text(json.dumps({"label": "language model"}))
    (training / "metrics.csv").write_text("step,loss\n5,2.5\n7,1.25\n")
    with (training / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["status", "--results", str(results), "--state", str(state)]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("finished  tokenizers/demo"))
    assert "tokenizer train, 0 s on cpu" in line
    assert "language model: step 7 saved, loss 1.25, running" in out


def test_status_of_an_empty_folder(tmp_path, capsys):
    assert main(["status", "--results", str(tmp_path / "r"), "--state", str(tmp_path / "s")]) == 0
    assert "nothing in" in capsys.readouterr().out
