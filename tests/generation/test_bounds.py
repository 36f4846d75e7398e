"""Excessive lengths and numbers are refused with an estimate before allocation; feasible ones are not."""

import tracemalloc

import numpy as np
import pytest

from dplm2.core.errors import ConfigError
from dplm2.core.memory import total_memory
from dplm2.generation import bounds
from dplm2.generation.task import Target
from dplm2.representations.embedding import embed

BILLION = 10**9


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (
            "co-generation",
            {"lengths": [BILLION], "samples": 1},
            "lengths: a protein of 1,000,000,000 residues",
        ),
        (
            "co-generation",
            {"lengths": [3 * 10**6], "samples": 1},
            "length-3000000: a protein of 3,000,000 residues",
        ),
        (
            "sequence",
            {"lengths": [100], "samples": BILLION},
            "samples: 1,000,000,000 of 100,000,000,000 residues",
        ),
        (
            "sequence",
            {"lengths": {"minimum": 1, "maximum": 10**12}, "samples": 9},
            "lengths: a protein of 1,000,000,000,000 residues",
        ),
        ("folding", {"sequences": ["MKT"], "samples": BILLION}, "samples: 1,000,000,000 of"),
        ("folding", {"sequences": ["MKT"], "best_of": BILLION}, "best_of: 1,000,000,000 candidates"),
    ],
)
def test_excessive_requests_are_refused_before_allocation(model, monkeypatch, task, settings, message):
    monkeypatch.setattr(bounds, "total_memory", lambda *_: 64 * 10**9)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as refusal:
            model.generate(task, **settings)
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()
    assert message in str(refusal.value) and "64.0 GB here" in str(refusal.value)


def test_protein_beyond_the_memory_is_refused_by_embeddings(model, monkeypatch):
    monkeypatch.setattr(bounds, "total_memory", lambda *_: 10**6)
    with pytest.raises(ConfigError, match="long: a protein of 5,000 residues would need at least .* of memory"):
        embed(model, [Target("short", "MKT", None), Target("long", "M" * 5000, None)])


def test_chain_beyond_the_memory_is_refused_by_the_encoder(model, monkeypatch):
    monkeypatch.setattr("dplm2.tokenizer.model.total_memory", lambda *_: 10**9)
    with pytest.raises(ConfigError, match="encoding: a chain of 10,000 residues would need at least 1.2 GB"):
        model.tokenizer.encode(np.zeros((10_000, 4, 3), np.float32))


def test_estimate_is_within_a_factor_of_two_of_measured_memory():
    """Rows of finished samples as in `dplm2 generate`, with coordinates as Python numbers."""
    length, samples = 100, 50
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    rows = [np.random.default_rng(i).normal(size=length * 12).astype(np.float32).tolist() for i in range(samples)]
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(rows) == samples
    assert 0.5 * taken < bounds.BYTES_PER_RESIDUE * length * samples < 2 * taken


def test_ordinary_work_is_not_refused(model):
    assert 10**8 < total_memory() < 10**14
    assert len(model.generate("co-generation", lengths=[6], samples=2, steps=2)) == 2
