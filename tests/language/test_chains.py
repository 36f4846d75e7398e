"""Tokenized chains: windows and crops, and likelihoods against closed forms."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from dplm2.core.errors import DPLM2Error
from dplm2.language import likelihood
from dplm2.language.chains import TokenizedChains
from dplm2.language.diffusion import TRACKS
from dplm2.language.sequences import SequenceStore
from dplm2.language.training import SequenceTask
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.model import DiffusionSettings
from dplm2.training import log

VOCABULARY = Vocabulary(20)


def table_of(sequences, tokens, observed=None, clusters=None):
    observed = observed or [[True] * len(sequence) for sequence in sequences]
    return pa.table(
        {
            "chain_id": [f"chain{number}" for number in range(len(sequences))],
            "sequence": sequences,
            "structure_tokens": pa.array(tokens, pa.list_(pa.uint16())),
            "observed": pa.array(observed, pa.list_(pa.bool_())),
            "cluster": pa.array(clusters or [None] * len(sequences), pa.string()),
        }
    )


def random_table(lengths, seed=0):
    rng = np.random.default_rng(seed)
    sequences = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in lengths]
    return table_of(sequences, [rng.integers(0, 20, length).tolist() for length in lengths])


def test_tokenized_chain_survives_a_round_trip():
    chains = TokenizedChains(
        table_of(["MKV", "WX"], [[1, 2, 3], [4, 5]], [[True, False, True], [True, True]]),
        VOCABULARY,
        DiffusionSettings.make(),
    )
    assert chains.track(0, "structure").tolist() == [37, VOCABULARY.unknown_structure, 39]
    assert chains.track(1, "structure").tolist() == [40, 41]
    assert VOCABULARY.decode_sequence(chains.track(1, "sequence")) == "WX"
    assert chains.costs() == [10, 8]


def test_tokens_of_missing_residues_are_kept_if_learned():
    settings = DiffusionSettings.make(unobserved_structure="learn")
    chains = TokenizedChains(table_of(["MK"], [[7, 0]], [[True, False]]), VOCABULARY, settings)
    assert chains.track(0, "structure").tolist() == [43, 36]


def test_error_for_unequal_tracks_names_the_chain():
    with pytest.raises(DPLM2Error, match="^chain1: sequence and `structure_tokens` differ"):
        TokenizedChains(table_of(["MK", "MKV"], [[1, 2], [3]]), VOCABULARY, DiffusionSettings.make())
    with pytest.raises(DPLM2Error, match="^chain1: sequence and `observed` differ"):
        observed = [[True, True], [True]]
        TokenizedChains(table_of(["MK", "MKV"], [[1, 2], [3, 4, 5]], observed), VOCABULARY, DiffusionSettings.make())


def test_empty_table_is_refused():
    with pytest.raises(DPLM2Error, match="no tokenized chain"):
        TokenizedChains(table_of([], []), VOCABULARY, DiffusionSettings.make())


def test_windows_follow_length_limit_and_crop_settings():
    settings = DiffusionSettings.make(max_length=80, crop_probability=0.5, crop_min_length=30)
    chains = TokenizedChains(random_table([100, 40]), VOCABULARY, settings)
    generator = torch.Generator().manual_seed(0)
    long, short = ([chains.window(index, generator) for _ in range(4000)] for index in (0, 1))
    lengths = np.array([window.stop - window.start for window in long])
    assert lengths.min() == 30 and lengths.max() == 80
    assert (lengths == 80).mean() == pytest.approx(0.5, abs=0.03)
    assert (lengths[lengths < 80]).mean() == pytest.approx(54.5, abs=1.5)
    whole = [window for window in long if window.stop - window.start == 80]
    assert {window.start for window in whole} == set(range(21))
    assert max(window.stop - window.start for window in short) == 40
    assert min(window.stop - window.start for window in short) == 30


def test_windows_of_long_sequences_start_anywhere_as_the_generator_says(small_network):
    """A sequence of 10 has four windows of 7, equally probable."""
    store, settings = SequenceStore.of(["ACDEFGHIKL", "ACD"], ["long", "short"]), {"max_length": 7}
    task = SequenceTask(small_network, store, None, DiffusionSettings.make(**settings, crop_probability=0))
    assert task.costs.tolist() == [9, 5]

    def shown(seed, index=0):
        ids_T = task.collate([index], torch.Generator().manual_seed(seed))["target_ids"][0, 1:-1]
        return "".join(VOCABULARY.tokens[token] for token in ids_T)

    found = Counter(shown(seed) for seed in range(800))
    assert set(found) == {"ACDEFGH", "CDEFGHI", "DEFGHIK", "EFGHIKL"}
    assert all(count == pytest.approx(200, abs=60) for count in found.values())
    assert [shown(seed) for seed in range(9)] == [shown(seed) for seed in range(9)]
    assert shown(0, index=1) == "ACD"


def test_batch_is_determined_by_its_generator():
    chains = TokenizedChains(random_table([90, 70, 50]), VOCABULARY, DiffusionSettings.make())
    first, again, other = (chains.noised([0, 1, 2], torch.Generator().manual_seed(seed)).batch() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["input_ids"].shape != other["input_ids"].shape or not torch.equal(
        first["input_ids"], other["input_ids"]
    )


def test_the_unigram_baseline_predicts_each_chain_from_the_others():
    """Written out by hand: unknown residues (X, and those without a structure) do not count."""
    table = table_of(["AAAACX", "CCGG"], [[0, 0, 0, 0, 1, 1], [2, 2, 0, 3]], [[True] * 5 + [False], [True] * 4])
    baseline = likelihood.unigram_baseline(TokenizedChains(table, VOCABULARY, DiffusionSettings.make()))
    codes = VOCABULARY.codebook_size
    of_first = 4 * math.log(1 / (4 + 20)) + math.log(3 / (4 + 20))  # A, C; the other chain has CCGG
    of_second = 2 * math.log(2 / (5 + 20)) + 2 * math.log(1 / (5 + 20))  # C, G; the other has AAAAC
    assert baseline["sequence"] == pytest.approx((-(of_first + of_second) / 9, 9))
    of_first = 4 * math.log(2 / (4 + codes)) + math.log(1 / (4 + codes))  # 0, 1; the other has 2, 2, 0, 3
    of_second = 3 * math.log(1 / (5 + codes)) + math.log(5 / (5 + codes))  # 2 and 3, 0; the other has 0 four times, 1
    assert baseline["structure"] == pytest.approx((-(of_first + of_second) / 9, 9))


def test_the_unigram_baseline_of_a_single_chain_is_uniform():
    table = table_of(["AAAA"], [[0, 0, 1, 1]], [[True] * 4])
    baseline = likelihood.unigram_baseline(TokenizedChains(table, VOCABULARY, DiffusionSettings.make()))
    assert baseline["sequence"] == pytest.approx((math.log(20), 4))


def test_zero_head_has_the_entropy_of_uniform_classes(small_network):
    """With a head of zeros all classes of a track are equally probable."""
    head = small_network.model.lm_head
    torch.nn.init.zeros_(head.decoder.weight)
    torch.nn.init.zeros_(head.bias)
    chains = TokenizedChains(random_table([60, 45, 80]), VOCABULARY, DiffusionSettings.make())
    entries = likelihood.masked_cross_entropies(small_network, chains)
    assert {(entry.track, entry.task) for entry in entries} == {
        ("structure", "single_modality"),
        ("sequence", "single_modality"),
        ("structure", "folding"),
        ("sequence", "inverse_folding"),
        ("structure", "joint"),
        ("sequence", "joint"),
    }
    for entry in entries:
        assert entry.positions > 50
        assert entry.value == pytest.approx(math.log(len(VOCABULARY.classes(entry.track))), rel=1e-5)
    pooled = likelihood.pooled(entries)
    for track in TRACKS:
        assert pooled[track][1] == sum(entry.positions for entry in entries if entry.track == track)


def test_likelihood_does_not_depend_on_batches(small_network, monkeypatch):
    chains = TokenizedChains(random_table([60, 45, 80, 30]), VOCABULARY, DiffusionSettings.make())
    together = likelihood.masked_cross_entropies(small_network, chains)
    again = likelihood.masked_cross_entropies(small_network, chains)
    assert together == again
    small_network.packing = False
    with_mask = likelihood.masked_cross_entropies(small_network, chains)
    assert [entry.positions for entry in with_mask] == [entry.positions for entry in together]
    assert [entry.value for entry in with_mask] == pytest.approx([entry.value for entry in together], rel=1e-5)


def test_likelihood_of_a_model_in_training_is_without_dropout(small_network):
    chains = TokenizedChains(random_table([20, 30]), VOCABULARY, DiffusionSettings.make())
    expected = likelihood.masked_cross_entropies(small_network, chains)
    for module in small_network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    small_network.train()
    assert likelihood.masked_cross_entropies(small_network, chains) == expected
    assert all(module.training for module in small_network.modules())


def test_likelihood_of_many_chains_reports_progress(small_network, monkeypatch, capsys):
    monkeypatch.setattr(log, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(likelihood, "_TOKENS_PER_BATCH", 200)
    chains = TokenizedChains(random_table([60, 45, 80, 30]), VOCABULARY, DiffusionSettings.make())
    silent = likelihood.masked_cross_entropies(small_network, chains)
    assert capsys.readouterr().err == ""
    assert likelihood.masked_cross_entropies(small_network, chains, progress="likelihood") == silent
    lines = capsys.readouterr().err.splitlines()
    # Three batches (two tracks of 30 and 45 residues fit together) for each of the four tasks.
    assert len(lines) == 12
    assert lines[2].startswith("likelihood: batch 3 of 12 (25 %), ")
    assert "tokens/s" in lines[2] and lines[2].endswith(" left")


def test_written_out_shows_tracks_and_masks():
    ids_T = torch.tensor([33, 37, VOCABULARY.mask_structure, 34, 0, VOCABULARY.mask_sequence, 4, 2])
    assert likelihood.written_out(VOCABULARY, ids_T) == "  structure 0001 ____\n  sequence  _L"
