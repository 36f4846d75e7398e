"""Log-likelihoods equal those of one plain call of the network per residue, in any batch."""

import numpy as np
import pandas as pd
import pytest

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.task import Target
from dplm2.scoring.likelihood import VIEWS, residue_likelihoods, summary_row
from dplm2.scoring.queries import Reading, queries_of, windows_of
from tests.scoring.plain import LETTERS, log_probabilities


def by_hand(model, target, view, masked=True):
    """Log-probability of each residue by separate calls; NaN if unknown on a scored track."""
    seen, read = VIEWS[view].seen, VIEWS[view].read
    given = {
        "sequence": target.sequence if "sequence" in seen else None,
        "tokens": target.structure_tokens if "structure" in seen else None,
    }
    values = np.full(target.length, np.nan)
    for i in range(target.length):
        truth = {}
        if "sequence" in read and target.sequence[i] in LETTERS:
            truth["sequence"] = model.vocabulary.tokens.index(target.sequence[i])
        if "structure" in read and target.structure_tokens[i] >= 0:
            truth["structure"] = model.vocabulary.first_code + target.structure_tokens[i]
        if len(truth) == len(read):
            hidden = {(track, i) for track in read} if masked else ()
            found = [log_probabilities(model.network, t, i, **given, hidden=hidden)[truth[t]] for t in read]
            values[i] = sum(found)
    return values


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("marginals", ["masked", "wild-type"])
def test_each_view_equals_one_plain_call_per_residue(any_model, proteins, view, marginals):
    reading = Reading(marginals, token_budget=70)
    found = list(residue_likelihoods(any_model, proteins, [view], reading))
    for target, values in zip(proteins, found, strict=True):
        assert list(values) == [view]
        np.testing.assert_allclose(values[view], by_hand(any_model, target, view, marginals == "masked"), atol=2e-5)
    assert np.isnan(found[2]["pair"] if view == "pair" else found[2][view]).sum() == {"pair": 4}.get(view, 2)


@pytest.mark.parametrize("reading", [Reading(), Reading(parts=3, seed=5), Reading(window=6, parts=2)])
def test_results_do_not_depend_on_batch_padding_or_order(model, proteins, reading):
    def run(targets, budget, packing):
        model.network.packing = packing
        try:
            own = Reading(reading.marginals, reading.parts, reading.window, reading.seed, budget)
            return dict(zip([t.name for t in targets], residue_likelihoods(model, targets, None, own), strict=True))
        finally:
            model.network.packing = None

    alone = {t.name: run([t], 1, None)[t.name] for t in proteins}
    for packing in (True, False):  # without padding, and padded with a mask
        together = run(proteins[::-1], 100_000, packing)
        for name, values in alone.items():
            for view in VIEWS:
                np.testing.assert_allclose(together[name][view], values[view], atol=2e-5)


def test_parts_mask_every_residue_once_and_depend_on_seed_and_name():
    residues = np.arange(20)

    def parts(name, seed):
        return [q.residues.tolist() for q in queries_of(0, name, 20, residues, Reading(parts=4, seed=seed))]

    assert [len(part) for part in parts("a", 0)] == [5] * 4
    assert sorted(sum(parts("a", 0), [])) == residues.tolist()
    assert parts("a", 0) == parts("a", 0) and parts("a", 0) != parts("b", 0) and parts("a", 0) != parts("a", 1)


def test_as_many_parts_as_residues_mask_one_at_a_time(model, proteins):
    target = proteins[0]
    (each,) = residue_likelihoods(model, [target], ["sequence"])
    (parts,) = residue_likelihoods(model, [target], ["sequence"], Reading(parts=target.length))
    np.testing.assert_allclose(each["sequence"], parts["sequence"], atol=1e-6)


@pytest.mark.parametrize(("length", "window"), [(10, 10), (11, 10), (100, 8), (3423, 1022), (7, 1), (9, 2)])
def test_windows_cover_each_residue_with_a_quarter_on_either_side(length, window):
    starts = windows_of(length, window)
    places = np.arange(length)
    assert (starts >= 0).all() and (starts + window <= max(length, window)).all()
    assert ((places >= starts) & (places < starts + window)).all()
    inner = (places >= window // 2) & (places < length - window // 2)
    assert (np.minimum(places - starts, starts + window - 1 - places)[inner] >= (window - 1) // 4).all()


def test_residues_outside_the_window_have_no_effect(model, proteins):
    target = Target("long", "".join(t.sequence.replace("X", "A").replace("?", "A") for t in proteins), None)
    (found,) = residue_likelihoods(model, [target], None, Reading(window=8))
    start = windows_of(target.length, 8)[17]
    piece = Target("piece", target.sequence[start : start + 8], None)
    expected = by_hand(model, piece, "sequence")[17 - start]
    assert found["sequence"][17] == pytest.approx(expected, abs=2e-5)
    assert found["sequence"][17] != pytest.approx(by_hand(model, target, "sequence")[17], abs=1e-3)


def test_perplexity_of_a_uniform_model_is_the_number_of_classes(model, proteins):
    """With an output layer of zeros all classes of a track are equally probable."""
    network = model.network
    kept = network.model.lm_head.decoder.weight.detach().clone(), network.model.lm_head.bias.detach().clone()
    try:
        network.model.lm_head.decoder.weight.data.zero_()
        network.model.lm_head.bias.data.zero_()
        (found,) = residue_likelihoods(model, proteins[:1])
    finally:
        network.model.lm_head.decoder.weight.data.copy_(kept[0])
        network.model.lm_head.bias.data.copy_(kept[1])
    row = summary_row(proteins[0], found)
    amino_acids, codes = len(network.classes("sequence")), len(network.classes("structure"))
    assert row["sequence_perplexity"] == pytest.approx(amino_acids, rel=1e-5)
    assert row["structure_given_sequence_perplexity"] == pytest.approx(codes, rel=1e-5)
    assert row["pair_perplexity"] == pytest.approx(amino_acids * codes, rel=1e-5)
    assert row["sequence_residues"] == proteins[0].length


def test_missing_track_is_named(model):
    with pytest.raises(DPLM2Error, match="bare: has no structure, which the score pair needs"):
        list(residue_likelihoods(model, [Target("bare", "ACD", None)], ["sequence", "pair"]))


def test_command(folders, ubiquitin, tmp_path, capsys):
    (tmp_path / "a.fasta").write_text(">one\nMKTAYIAKQR\n>two\nACXDEF\n")
    arguments = ["score", "likelihood", str(tmp_path / "a.fasta"), str(ubiquitin), "--model", str(folders / "model")]
    arguments += ["--device", "cpu", "--parts", "4", "--residues", "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table["chain_id"].tolist()[:2] == ["one", "two"] and table["length"].tolist() == [10, 6, 76]
    assert table["sequence_residues"].tolist() == [10, 5, 76] and table["pair_residues"].isna().tolist() == [1, 1, 0]
    residues = pd.read_parquet(tmp_path / "out" / "residues.parquet")
    assert residues.groupby("chain_id")["sequence"].sum()["one"] == pytest.approx(table["sequence_log_likelihood"][0])
    assert main([*arguments, str(tmp_path / "again"), "--seed", "0"]) == 0
    assert (tmp_path / "again" / "scores.csv").read_text() == (tmp_path / "out" / "scores.csv").read_text()
    assert main([*arguments, str(tmp_path / "other"), "--seed", "1"]) == 0
    assert (tmp_path / "other" / "scores.csv").read_text() != (tmp_path / "out" / "scores.csv").read_text()
    assert main([*arguments, str(tmp_path / "wrong"), "--marginals", "wild-type"]) == 2
    assert "--parts: has no effect with --marginals wild-type" in capsys.readouterr().err
