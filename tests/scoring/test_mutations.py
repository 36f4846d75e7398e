"""Scores of mutations equal those of one plain call of the network per mutation; errors name the mutation."""

import numpy as np
import pandas as pd
import pytest

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.inputs import chains_of
from dplm2.generation.task import Target
from dplm2.scoring.effects import amino_acid_log_probabilities, effect_matrix, mutant_scores
from dplm2.scoring.mutations import AMINO_ACIDS, Numbered, all_single, mutated
from dplm2.scoring.queries import Reading
from dplm2.structures.writing import write_structure
from tests.scoring.plain import all_effects, effect


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("with_structure", [True, False])
def test_single_mutations_equal_one_plain_call_each(any_model, proteins, masked, with_structure):
    target = proteins[0] if with_structure else Target("p", proteins[0].sequence, None)
    reading = Reading("masked" if masked else "wild-type", token_budget=60)
    protein = Numbered.from_first("p", target.sequence)
    singles = all_single(protein)
    assert len(singles) == 19 * target.length
    scores = mutant_scores(any_model, target, [mutant for _, mutant in singles], reading)
    expected = [
        effect(any_model.network, target.sequence, m.position, m.mutant, target.structure_tokens, masked)
        for _, (m,) in singles
    ]
    np.testing.assert_allclose(scores, expected, atol=5e-5)
    matrix = effect_matrix(target, amino_acid_log_probabilities(any_model, target, range(target.length), reading))
    np.testing.assert_allclose(
        matrix, all_effects(any_model.network, target.sequence, target.structure_tokens, masked), atol=5e-5
    )
    own = [AMINO_ACIDS.index(letter) for letter in target.sequence]
    assert (matrix[range(target.length), own] == 0).all()


def test_wild_type_scores_zero_and_substitutions_add_up(model, proteins):
    target = proteins[0]
    protein = Numbered.from_first("p", target.sequence)
    a, b = f"{target.sequence[1]}2W", f"{target.sequence[7]}8M"
    silent = f"{target.sequence[4]}5{target.sequence[4]}"
    texts = ["WT", "", silent, a, b, f"{a}:{b}", f"{b}:{a}", f"{a}:{silent}"]
    scores = mutant_scores(model, target, [protein.mutant(text, "row") for text in texts])
    assert (scores[:3] == 0).all() and scores[3] != 0
    assert scores[5] == pytest.approx(scores[3] + scores[4], abs=1e-12)
    assert scores[6] == scores[5] and scores[7] == scores[3]


def test_scores_do_not_depend_on_the_other_mutants(model, proteins):
    target = proteins[2]
    protein = Numbered.from_first("p", target.sequence)
    mutants = [mutant for _, mutant in all_single(protein)]
    together = mutant_scores(model, target, mutants)
    np.testing.assert_allclose(together[[5]], mutant_scores(model, target, mutants[5:6]), atol=2e-5)
    assert len(mutants) == 19 * (target.length - 2)  # an X and a ?


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A2V", "row 3: A2V: residue 2 of p is C, not A"),
        ("C12V", "row 3: C12V: p has no residue 12; its residues are 1 to 5"),
        ("C0V", "row 3: C0V: p has no residue 0"),
        ("C2", "row 3: 'C2' is no substitution such as A23V"),
        ("c2V", "row 3: 'c2V' is no substitution"),
        ("C2V,D3G", "row 3: 'C2V,D3G' is no substitution"),
        ("C2X", "row 3: C2X: X is not one of the 20 amino acids"),
        ("C2V:C2W", "row 3: 'C2V:C2W' changes residue 2 twice"),
        ("C2V:", "row 3: '' is no substitution"),
        ("C2del", "row 3: 'C2del' is no substitution"),
        ("D99999999999999999999A", "is no substitution"),
    ],
)
def test_errors_name_row_and_mutation(text, message):
    with pytest.raises(DPLM2Error) as error:
        Numbered.from_first("p", "ACDEF").mutant(text, "row 3")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_numbering_has_a_configurable_start_and_insertion_codes():
    protein = Numbered.from_first("p", "ACDEF", -1)
    (one,) = protein.mutant("D1G", "row")
    assert one.position == 2 and mutated("ACDEF", (one,)) == "ACGEF"
    (two,) = Numbered("p", "ACD", ["52", "52A", "53"]).mutant("C52AV", "row")
    assert (two.position, two.mutant) == (1, "V")


def run(folders, *arguments):
    return main(["score", "mutations", *map(str, arguments), "--model", str(folders / "model"), "--device", "cpu"])


def test_command_scores_given_mutants_and_tables(folders, model, ubiquitin, tmp_path, capsys):
    assert run(folders, ubiquitin, "--out", tmp_path / "a", "--mutations", "K6A", "K6A:I44V", "WT") == 0
    scores = pd.read_csv(tmp_path / "a" / "mutations.csv").set_index("mutant")["score"]
    assert scores["WT"] == 0 and list(scores.index) == ["K6A", "K6A:I44V", "WT"]
    (tmp_path / "two.fasta").write_text(">one\nMKTAYIAKQR\n>two\nACDEF\n")
    (tmp_path / "table.csv").write_text("protein,mutant\ntwo,C2A\none,K2A:T3A\ntwo,A1C\n")
    table = ["--table", tmp_path / "table.csv", "--format", "parquet"]
    assert run(folders, tmp_path / "two.fasta", "--out", tmp_path / "b", *table) == 0
    found = pd.read_parquet(tmp_path / "b" / "mutations.parquet")
    assert found["protein"].tolist() == ["two", "one", "two"] and found["mutant"].tolist()[1] == "K2A:T3A"
    assert found["score"][0] == pytest.approx(effect(model.network, "ACDEF", 1, "A"), abs=5e-5)
    (tmp_path / "table.csv").write_text("protein,mutant\ntwo,C2A\ntwo,A2C\n")
    assert run(folders, tmp_path / "two.fasta", "--out", tmp_path / "c", *table) == 1
    assert f"{tmp_path / 'table.csv'}, row 2: A2C: residue 2 of two is C, not A" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    (tmp_path / "table.csv").write_text("mutant\nC2A\n")
    assert run(folders, tmp_path / "two.fasta", "--out", tmp_path / "c", *table) == 1
    assert "row 1: C2A: names no protein (column protein), and there are several" in capsys.readouterr().err


def test_command_draws_a_heat_map_of_all_single_mutations(folders, model, ubiquitin, tmp_path):
    assert run(folders, ubiquitin, "--out", tmp_path / "all", "--all", "--marginals", "wild-type") == 0
    table = pd.read_csv(tmp_path / "all" / "mutations.csv")
    assert len(table) == 76 * 19 and table["score"].notna().all()
    assert run(folders, ubiquitin, "--out", tmp_path / "one", "--mutations", "K6A", "--marginals", "wild-type") == 0
    one = pd.read_csv(tmp_path / "one" / "mutations.csv")["score"][0]
    assert table.set_index("mutant")["score"]["K6A"] == pytest.approx(one, abs=2e-5)
    (drawing,) = (tmp_path / "all").glob("heat_map_*.svg")
    assert "<svg" in drawing.read_text() and "residue" in drawing.read_text()


def test_author_numbering_reads_the_numbers_of_the_file(folders, ubiquitin, tmp_path):

    (chain,) = chains_of(ubiquitin)
    write_structure(tmp_path / "u.pdb", chain.sequence, chain.backbone)
    shifted = (tmp_path / "u.pdb").read_text().splitlines()
    shifted = [f"{l[:22]}{int(l[22:26]) + 100:4d}{l[26:]}" if l.startswith("ATOM") else l for l in shifted]
    (tmp_path / "u.pdb").write_text("\n".join(shifted) + "\n")
    for name, numbering, mutant in (("a", "author", "K106A"), ("s", "sequence", "K6A")):
        arguments = ["--numbering", numbering, "--mutations", mutant]
        assert run(folders, tmp_path / "u.pdb", "--out", tmp_path / name, *arguments) == 0
    scores = [pd.read_csv(tmp_path / name / "mutations.csv")["score"][0] for name in "as"]
    assert scores[0] == scores[1] != 0
