"""Tables that compare models, and sampling speed compared with published values."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dplm2.report import speed
from dplm2.report.models import FREQUENCIES, VALIDATION, cross_entropies, validation_curves
from dplm2.report.results import read_results
from dplm2.report.speed import sampling_speed

SUMMARY = "model,task,dataset,metric,value,n,backend\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def two_models(tmp_path):
    """A model from scratch, one after 40 steps on sequences, and one with another tokenizer."""
    for model, tokenizer, last in (("scratch", "one", 5.5), ("warmed-up", "one", 5.0), ("other", "two", 3.0)):
        folder = tmp_path / "models" / model
        config = {"dplm2": {"tokenizer_fingerprint": tokenizer}}
        write(folder / "config.json", json.dumps(config))
        columns = "step,loss,validation_cross_entropy_structure,validation_cross_entropy_sequence_inverse_folding\n"
        write(folder / "metrics.csv", f"{columns}50,9,6.0,2.9\n60,8,,\n100,7,{last},2.5\n")
        rows = [("sequence_cross_entropy_trained", last / 2), ("structure_cross_entropy_trained_folding", last + 1)]
        rows += [("structure_cross_entropy_unigram", 5.25), ("sequence_cross_entropy_untrained", 9)]
        lines = "".join(f"{model},likelihood,test,{metric},{value},9,none\n" for metric, value in rows)
        write(tmp_path / "evaluation" / model / "likelihood" / "test" / "summary.csv", SUMMARY + lines)
    write(tmp_path / "models" / "warmed-up" / "initial" / "metrics.csv", "step,loss\n20,3\n40,2\n")
    return read_results(tmp_path)


def test_models_with_the_same_tokenizer_share_rows(two_models):
    table = cross_entropies(two_models).set_index(["dataset", "tokenizer", "track", "task"])
    assert list(table) == [FREQUENCIES, "other", "scratch", "warmed-up"]
    at_end = table.loc[(VALIDATION, "one", "structure", "all")]
    assert (at_end["scratch"], at_end["warmed-up"]) == (5.5, 5.0)
    assert pd.isna(at_end["other"])
    assert table.loc[(VALIDATION, "two", "structure", "all"), "other"] == 3.0
    assert table.loc[(VALIDATION, "one", "sequence", "inverse_folding"), "scratch"] == 2.5
    measured = table.loc[("test", "one", "structure", "folding")]
    assert (measured["scratch"], measured["warmed-up"], measured[FREQUENCIES]) == (6.5, 6.0, 5.25)
    assert table.loc[("test", "one", "sequence", "all"), "warmed-up"] == 2.5


def test_curves_start_at_the_end_of_the_sequence_stage(two_models):
    (figure,) = validation_curves(two_models)  # no pooled value of the sequence track was logged
    assert "structure track" in figure.title
    assert "scratch: 5.5" in figure.caption
    assert "warmed-up: 5" in figure.caption
    assert figure.svg.count("stroke-dasharray") >= 1


def write_samples(folder, lengths, steps, wall, timed=None):
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"length": lengths, "steps": [steps] * len(lengths)}), folder / "samples.parquet")
    record = {"command": "generate", "device": "cpu", "wall_seconds": wall, "seconds_per_sample": timed or {}}
    (folder / "run.json").write_text(json.dumps(record))


def test_seconds_are_per_sample_by_length_or_per_job(tmp_path):
    samples = tmp_path / "samples" / "m"
    write_samples(samples / "co-generation", [100, 100, 500, 500], 500, 1000, {"100": [2, 10.0], "500": [2, 50.0]})
    write_samples(samples / "folding", [31, 60, 709], 20, 45.0)
    many = {str(length): [1, 1.0] for length in range(90, 320, 5)}
    write_samples(samples / "inverse-folding", [int(length) for length in many], 20, 45.0, many)
    table = sampling_speed(read_results(tmp_path), "DPLM-2 650M").set_index(["task", "length"])
    assert table.loc[("co-generation", "100"), "seconds_per_sample"] == pytest.approx(10)
    assert table.loc[("co-generation", "500"), "seconds_per_sample"] == pytest.approx(50)
    assert table.loc[("folding", "31 to 709"), "seconds_per_sample"] == pytest.approx(15)
    assert table.loc["folding", "measured"].tolist() == [speed.WHOLE]
    assert table.loc["inverse-folding", "samples"].to_dict() == {
        "0 to 99": 2, "100 to 199": 20, "200 to 299": 20, "300 to 399": 4,
    }  # fmt: skip
    assert set(table["published"]) == {"missing"}


def test_published_speed_is_shown_with_ours(tmp_path, monkeypatch):
    row = {
        "task": "sampling_speed", "metric": "seconds_per_sample", "model": "DPLM-2 650M", "length_or_problem": "100",
        "value": "2.5", "source": "somewhere", "dataset": "co-generation", "confidence": "",
    }  # fmt: skip
    monkeypatch.setattr(speed, "published", lambda: (row,))
    write_samples(tmp_path / "samples" / "m" / "co-generation", [100], 500, 10.0)
    line = sampling_speed(read_results(tmp_path), "DPLM-2 650M").iloc[0]
    assert (line["seconds_per_sample"], line["published"], line["source"]) == (10, 2.5, "somewhere")
