"""The stream of batches: every chain once per epoch, within the budget, in an order that depends on seed and epoch."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.training import batches as module
from dplm2.training.batches import Batches, Position

COSTS = np.random.default_rng(0).integers(40, 1030, 900)


def make(costs=COSTS, **options):
    return Batches(costs, **{"token_budget": 8192, "max_batch_size": None, "seed": 5, **options})


def epoch(batches, number=0):
    windows = range(number * batches.windows, (number + 1) * batches.windows)
    return [batch for window in windows for batch in batches.window(window)]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_chain_occurs_once_per_epoch(processes):
    batches = make()
    count = sum(len(epoch(batches, e)) for e in range(3))
    streams = [batches.stream(Position(), 0, rank, processes) for rank in range(processes)]
    taken = [micro for stream in streams for micro in islice(stream, -(-count // processes))]
    taken.sort(key=lambda micro: micro.number)
    assert [micro.number for micro in taken] == list(range(len(taken)))
    seen = Counter(chain for micro in taken[:count] for chain in micro.indices)
    assert set(seen.values()) == {3} and len(seen) == len(COSTS)
    # No chain of the second epoch occurs before all of the first.
    assert sorted(chain for micro in taken[: len(epoch(batches))] for chain in micro.indices) == list(range(len(COSTS)))


def test_budget_includes_padding_which_buckets_limit():
    batches = make()
    padded = [COSTS[batch].max() * len(batch) for batch in epoch(batches)]
    assert max(padded) <= 8192
    assert 1 - COSTS.sum() / sum(padded) < 0.06
    assert np.mean(padded) > 0.85 * 8192


@pytest.mark.parametrize("packed", [False, True])
def test_batch_may_fill_the_budget_exactly(packed):
    costs = [40] * 60
    assert {len(batch) for batch in epoch(make(costs, token_budget=200, packed=packed))} == {5}
    assert {len(batch) for batch in epoch(make(costs, token_budget=199, packed=packed))} == {4}


def test_packed_batches_are_limited_by_their_sum():
    totals = [COSTS[batch].sum() for batch in epoch(make(packed=True))]
    assert max(totals) <= 8192 and np.mean(totals) > 0.9 * 8192


def test_chain_above_the_budget_is_a_batch_of_its_own():
    found = epoch(make([10, 20_000, 12, 9000, 11]))
    assert sorted(tuple(sorted(batch)) for batch in found) == [(0, 2, 4), (1,), (3,)]


def test_number_of_chains_per_batch_is_limited():
    assert max(len(batch) for batch in epoch(make(max_batch_size=4))) == 4


def test_order_depends_only_on_seed_and_epoch():
    def orders(**options):
        batches = make(**options)
        return [[batch.tolist() for batch in epoch(batches, e)] for e in (0, 1)]

    first, second = orders()
    assert orders() == [first, second]
    assert first != second
    assert orders(seed=6)[0] != first
    # Batches differ between epochs, and are not ordered by length.
    mates = [{frozenset(batch) for batch in order} for order in (first, second)]
    assert len(mates[0] & mates[1]) < 0.05 * len(first)
    lengths = [COSTS[batch].mean() for batch in first]
    assert abs(np.corrcoef(lengths, range(len(lengths)))[0, 1]) < 0.35


@pytest.mark.parametrize("start", [0, 7, 60, 61, 130])
def test_stream_resumes_at_any_position(start):
    batches = make()
    whole = list(islice(batches.stream(Position(), 0), 200))
    position = whole[start - 1].after if start else Position()
    assert list(islice(make().stream(position, start), 50)) == whole[start : start + 50]


def test_epoch_includes_the_batch_itself():
    batches = make()
    count = len(epoch(batches))
    epochs = [micro.epoch for micro in islice(batches.stream(Position(), 0), count + 1)]
    assert epochs[:count] == pytest.approx([(number + 1) / count for number in range(count)])
    assert epochs[count - 1] == 1 < epochs[count]


def test_large_sets_are_shuffled_in_windows(monkeypatch):
    monkeypatch.setattr(module, "PAGE", 50)
    monkeypatch.setattr(module, "PAGES_PER_WINDOW", 4)
    batches = make()
    assert batches.windows == 5
    for number in (0, 1):
        chains = np.concatenate(epoch(batches, number))
        assert sorted(chains.tolist()) == list(range(len(COSTS)))
    assert max(len({chain // 50 for batch in batches.window(w) for chain in batch}) for w in range(5)) == 4
    pages = [[sorted({chain // 50 for batch in each.window(w) for chain in batch}) for w in range(10)] for each in (
        batches, make(), make(seed=6)
    )]  # fmt: skip
    assert pages[0] == pages[1] != pages[2]
    assert pages[0][:5] != pages[0][5:]
    assert [round(m.epoch, 6) for m in islice(batches.stream(Position(), 0), 400) if m.epoch == 1.0] == [1.0]


def test_epoch_by_cluster_has_one_chain_per_cluster():
    clusters = [None if chain < 5 else f"c{chain % 40}" for chain in range(900)]
    batches = make(clusters=clusters)
    assert batches.units == 45
    chosen = [sorted(np.concatenate(epoch(batches, e)).tolist()) for e in range(30)]
    for chains in chosen:
        assert chains[:5] == [0, 1, 2, 3, 4]
        assert sorted(chain % 40 for chain in chains[5:]) == list(range(40))
    # All members of a cluster have the same probability: 22 or 23 members, 30 draws of 40 clusters.
    assert len({chain for chains in chosen for chain in chains}) > 600


def test_a_million_chains_are_batched_in_seconds():
    costs = np.random.default_rng(1).integers(30, 1000, 1_000_000)
    batches = make(costs)
    assert sum(len(batch) for batch in batches.window(0)) == 1_000_000


def test_empty_training_set_is_refused():
    with pytest.raises(DPLM2Error, match="no chain"):
        make([])
    with pytest.raises(DPLM2Error, match="chain number 1"):
        make([5, 0])
