"""Each rule of cleaning on a synthetic case (for real files see test_structures_raw.py)."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from biotite.structure import annotate_sse, gyration_radius
from biotite.structure.io.pdbx import BinaryCIFFile, get_structure

from dplm2.structures.cleaning import clean_entry, refuse_without_coordinates
from dplm2.structures.components import THREE_LETTERS
from dplm2.structures.gaps import with_gaps
from dplm2.structures.molecules import protein_chains
from dplm2.structures.reading import read_structure
from tests.structures.made import ATOMS, START, STEP, atom, chain, clean, only, read, refusal, residue, seqres, settings


def alpha_x(found) -> np.ndarray:
    return found.backbone_LAX[:, 1, 0]


def test_a_plain_chain_keeps_its_coordinates_and_numbers():
    found = only(chain("ACDEF"))
    assert found.sequence == "ACDEF"
    np.testing.assert_allclose(alpha_x(found), START + 1.46 + STEP * np.arange(5), atol=1e-3)
    assert found.residue_index.tolist() == [1, 2, 3, 4, 5]
    assert found.insertion_codes is None
    assert np.isfinite(found.backbone_LAX).all()


def test_alternate_locations_keep_the_one_of_highest_occupancy_for_the_whole_residue():
    lines = chain("AA")
    for altloc, shift, occupancy in (("A", 0.5, 0.4), ("B", -0.5, 0.6)):
        lines += residue(2, offset=(0, shift, 0), altloc=altloc, occupancy=occupancy)
    lines += residue(3)
    found = only(lines)
    assert found.sequence == "AAAA"
    assert found.backbone_LAX[2, 1, 1] == pytest.approx(-0.5)
    # One atom with a higher occupancy in the other location does not mix the conformers.
    lines[8] = lines[8][:54] + f"{0.9:6.2f}" + lines[8][60:]
    mean_a = (0.9 + 3 * 0.4) / 4
    assert mean_a < 0.6
    assert only(lines).backbone_LAX[2, :3, 1].tolist() == pytest.approx([-0.5] * 3)


def test_equal_occupancies_keep_the_first_location():
    lines = (
        chain("AA") + residue(2, altloc="B", occupancy=0.5) + residue(2, offset=(0, 1, 0), altloc="A", occupancy=0.5)
    )
    assert only(lines).backbone_LAX[2, 1, 1] == 0


def test_residue_of_higher_occupancy_is_kept():
    lines = chain("AA") + residue(2, "SER", altloc="A", occupancy=0.3) + residue(2, "GLY", altloc="B", occupancy=0.7)
    assert only(lines + residue(3)).sequence == "AAGA"


def test_insertion_codes_are_separate_residues():
    lines = (
        residue(0, number=52)
        + residue(1, "CYS", number=52, insertion="A")
        + residue(2, "ASP", number=52, insertion="B")
    )
    found = only(lines + residue(3, "GLU", number=53))
    assert found.sequence == "ACDE"
    assert found.residue_index.tolist() == [52, 52, 52, 53]
    assert found.insertion_codes == " AB "


def test_file_order_is_kept_for_negative_and_decreasing_numbers():
    lines = [line for place, number in enumerate((-2, -1, 0, 500, 7)) for line in residue(place, number=number)]
    found = only(lines)
    assert found.residue_index.tolist() == [-2, -1, 0, 500, 7]
    assert np.diff(alpha_x(found)).tolist() == pytest.approx([STEP] * 4, abs=1e-3)


def test_jump_in_numbers_at_a_broken_bond_is_a_gap():
    lines = chain("ACD") + residue(5, "GLU") + residue(6, "PHE")
    found = only(lines)
    assert found.sequence == "ACDXXEF"
    assert found.residue_index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.observed_L.tolist() == [True] * 3 + [False] * 2 + [True] * 2
    assert np.isnan(found.backbone_LAX[3:5]).all()


def test_jump_in_numbers_without_a_broken_bond_is_not_a_gap():
    lines = [line for place, number in enumerate((1, 2, 9, 10)) for line in residue(place, number=number)]
    assert only(lines).sequence == "AAAA"


def test_jump_beyond_the_limit_adds_no_residues():
    lines = residue(0) + residue(1) + residue(300) + residue(301)
    assert only(lines).sequence == "AAAA"
    assert len(only(lines, reading={"max_numbering_gap": 500})) == 302
    # 298 residues are missing: a gap of exactly the limit is one.
    assert len(only(lines, reading={"max_numbering_gap": 298})) == 302
    assert len(only(lines, reading={"max_numbering_gap": 297})) == 4


def test_extreme_residue_numbers_remain_integers():
    from dplm2.structures.atoms import Atoms, Entry

    atoms = read(seqres("ACDEF") + chain("AC") + residue(3, "GLU") + residue(4, "PHE")).atoms
    largest = np.full(len(atoms), np.iinfo(np.int32).max, np.int32) - 5 + atoms.number
    entry = Entry(Atoms(**{**vars(atoms), "number": largest}), "PDB")
    chains, _ = clean_entry(entry, settings())
    assert chains[0].residue_index.dtype == np.int32
    assert chains[0].residue_index[-1] == np.iinfo(np.int32).max


def test_seqres_fills_gaps_but_not_ends():
    lines = seqres("MMACDWYEFKK") + chain("ACD") + residue(5, "GLU") + residue(6, "PHE")
    found = only(lines)
    assert found.sequence == "ACDWYEF"
    assert found.observed_L.tolist() == [True] * 3 + [False] * 2 + [True] * 2


def test_seqres_aligns_segments_by_sequence():
    lines = seqres("ACDWYEF") + chain("ACD") + residue(8, "GLU", number=4) + residue(9, "PHE", number=5)
    assert only(lines).sequence == "ACDWYEF"


def test_numbers_decide_between_equal_alignments_to_seqres():
    lines = seqres("ACDAAAAAAAE") + chain("ACD") + residue(7) + residue(10, "GLU")
    found = only(lines)
    assert found.sequence == "ACDAAAAAAAE"
    assert np.flatnonzero(found.observed_L).tolist() == [0, 1, 2, 7, 10]


def test_mismatched_seqres_is_ignored():
    lines = seqres("WWWWWWWWWW") + chain("ACD") + residue(4, "GLU")
    assert only(lines).sequence == "ACDXE"


@pytest.mark.parametrize(("observed", "found"), [("ACDEFGHIYL", "WY"), ("ACDEFGHYYL", "XX")])
def test_seqres_with_90_percent_agreement_is_used(observed, found):
    """Aligned by its letters (PDB), or placed by the file's own numbers (mmCIF)."""
    whole, places = "ACDEFWYGHIKL", [*range(5), *range(7, 12)]
    lines = [
        line for place, letter in zip(places, observed, strict=True) for line in residue(place, THREE_LETTERS[letter])
    ]
    expected = observed[:5] + found + observed[5:]
    assert only(seqres(whole) + lines).sequence == expected
    (residues,) = protein_chains(read(lines))
    placed = replace(residues, position=np.array(places) + 1)
    assert with_gaps(placed, tuple(THREE_LETTERS[letter] for letter in whole), 32).sequence == expected


@pytest.mark.parametrize(
    ("name", "letter"), [("MSE", "M"), ("SEP", "S"), ("PTR", "Y"), ("M3L", "K"), ("SEC", "C"), ("HIE", "H")]
)
def test_modified_residues_have_their_parents_letter(name, letter):
    lines = chain("AC") + residue(2, name, record="HETATM") + residue(3)
    assert only(lines).sequence == f"AC{letter}A"


@pytest.mark.parametrize("name", ["PH8", "CRO", "UNK", "DAL"])
def test_d_residues_and_those_without_a_single_parent_are_x(name):
    lines = chain("AC") + residue(2, name, record="HETATM") + residue(3)
    assert only(lines).sequence == "ACXA"


def test_unknown_residue_with_a_backbone_is_x():
    lines = chain("AC") + residue(2, "Q0Q") + residue(3)
    assert only(lines).sequence == "ACXA"


def test_missing_backbone_atoms_are_nan_and_the_residue_is_not_observed():
    lines = chain("AA") + residue(2, skip=("C", "O")) + residue(3, skip=("O",)) + residue(4)
    found = only(lines)
    assert np.isnan(found.backbone_LAX[2, 2:]).all()
    assert np.isfinite(found.backbone_LAX[2, :2]).all()
    assert found.observed_L.tolist() == [True, True, False, True, True]


def test_unobserved_ends_are_removed():
    found = only(residue(0, skip=("N",)) + residue(1) + residue(2) + residue(3, skip=("CA",)))
    assert found.residue_index.tolist() == [2, 3]


def test_duplicated_atoms_count_once():
    lines = chain("ACDE")
    assert only([line for line in lines for _ in range(2)]).sequence == "ACDE"
    twice = only(lines + [line.replace("  0.000   0.000", "  9.000   0.000") for line in lines])
    np.testing.assert_array_equal(twice.backbone_LAX, only(lines).backbone_LAX)


@pytest.mark.parametrize("text", ["     nan", "     inf"])
def test_coordinates_that_are_not_finite_are_missing(text):
    lines = chain("AAAAA")
    lines[9] = lines[9][:30] + text + lines[9][38:]
    found = only(lines)
    assert np.isnan(found.backbone_LAX[2, 1]).all()
    assert not found.observed_L[2]


def test_atoms_at_the_origin_are_missing():
    lines = chain("AAAAA", chain="A")
    lines[9] = atom("CA", number=3, at=(0, 0, 0))
    assert not only(lines).observed_L[2]


def test_later_of_coincident_residues_is_not_observed():
    lines = chain("AAAAA") + residue(2, "GLY", number=6, offset=(0.1, 0.1, 0)) + residue(6, number=7)
    found = only(lines)
    assert found.sequence == "AAAAAGA"
    assert found.observed_L.tolist() == [True] * 5 + [False, True]


def test_ligands_waters_ions_and_nucleic_acids_are_excluded():
    lines = chain("ACDE")
    lines += residue(10, "ALA", number=201, record="HETATM")  # a free amino acid
    lines += residue(20, "ALA", 301, record="HETATM") + residue(21, "PRO", 302, record="HETATM")  # a peptide as ligand
    lines += [
        atom("O", "HOH", number=401, at=(50, 50, 50), record="HETATM"),
        atom("CA", "CA", number=402, record="HETATM"),
    ]
    lines += [atom(name, " DA", number=500, at=(60, 60, i), chain="B") for i, name in enumerate(("P", "C1'", "N9"))]
    assert only(lines).sequence == "ACDE"


def test_peptide_of_hetatm_records_is_a_chain():
    assert only(chain("ACDE", record="HETATM")).sequence == "ACDE"


def test_entry_without_protein_is_refused():
    lines = [atom("P", " DA", at=(1, 1, 1)), atom("O", "HOH", number=2, at=(5, 5, 5), record="HETATM")]
    found = refusal(lines)
    assert (found.chain, found.code) == ("", "no_protein")
    assert refusal(residue(0)).code == "no_protein"


def test_alpha_carbon_trace_is_refused():
    assert refusal([line for line in chain("A" * 50) if " CA " in line]).code == "no_backbone"


def test_every_chain_is_a_row_or_a_refusal():
    lines = chain("A" * 50, chain="A") + chain("A" * 10, chain="B") + chain("C" * 60, chain="C")
    chains, refusals = clean(lines, filters={"min_length": 40})
    assert [one.author_chain for one in chains] == ["A", "C"]
    assert [(one.chain, one.code) for one in refusals] == [("B", "too_short")]


UNIT = "REMARK 350 AUTHOR DETERMINED BIOLOGICAL UNIT:"


@pytest.mark.parametrize(
    ("code", "filters", "lines"),
    [
        ("too_short", {"min_length": 6}, chain("AAAAA")),
        ("too_long", {"max_length": 4}, chain("AAAAA")),
        ("too_many_missing", {"min_observed_fraction": 0.8}, chain("AA") + residue(3) + residue(5)),
        ("too_many_unknown", {"max_unknown_fraction": 0.2}, chain("AAAXX")),
        ("not_monomer", {"monomers_only": True}, [f"{UNIT} DIMERIC", *chain("AAAA")]),
        ("resolution", {"max_resolution": 2.0}, ["REMARK   2 RESOLUTION.    2.10 ANGSTROMS.", *chain("AAAA")]),
        ("resolution", {"max_resolution": 2.0}, chain("AAAA")),
        ("release_date", {"released_before": "2020-01-01"}, ["REVDAT   1   01-JAN-20 1ABC    0", *chain("AAAA")]),
        ("release_date", {"released_after": "2020-01-01"}, ["REVDAT   1   31-DEC-19 1ABC    0", *chain("AAAA")]),
        ("release_date", {"released_after": "2020-01-01"}, chain("AAAA")),
        ("coil", {"max_coil": 0.5}, chain("AAAAAAAA")),
    ],
)  # fmt: skip
def test_filters_refuse_with_their_code(code, filters, lines):
    assert refusal(lines, filters=filters).code == code
    assert only(lines).sequence


def test_filter_bounds_are_inclusive():
    head = ["REVDAT   1   31-DEC-19 1ABC    0", "REMARK   2 RESOLUTION.    2.00 ANGSTROMS."]
    bounds = {"min_length": 5, "max_length": 5, "max_resolution": 2.0, "released_after": "2019-12-31"}
    found = only([*head, f"{UNIT} MONOMERIC", *chain("AAAAA")], filters={**bounds, "monomers_only": True})
    assert (found.resolution, found.release_date) == (2.0, "2019-12-31")
    assert only(chain("AAAAA"), filters={"max_coil": 1.0}).coil == 1.0
    with_gap = [line for place in (0, 3) for line in residue(place)]
    assert only(with_gap, filters={"min_observed_fraction": 0.5}).sequence == "AXXA"
    assert refusal(with_gap, filters={"min_observed_fraction": 0.51}).code == "too_many_missing"


def test_filter_bounds_without_coordinates_are_inclusive():
    found = only(["REMARK   2 RESOLUTION.    2.00 ANGSTROMS.", *chain("AAAAA")])
    filters = settings(filters={"min_length": 5, "max_length": 5, "max_resolution": 2.0}).filters
    assert refuse_without_coordinates(found, filters) is None
    assert refuse_without_coordinates(replace(found, resolution=2.01), filters).code == "resolution"


def test_chain_breaks_exclude_gaps():
    """Residues 2 and 3 are one residue apart, although their numbers are consecutive."""
    hidden = chain("AA") + residue(3, number=3)
    for start, breaks in ((hidden, 1), (chain("AAA"), 0), (hidden + residue(5, number=4), 2)):
        lines = start + residue(7, number=6)
        assert only(lines, filters={"max_chain_breaks": breaks}).sequence == only(lines).sequence
        if breaks:
            refused = refusal(lines, filters={"max_chain_breaks": breaks - 1})
            assert (refused.code, refused.reason.split()[0]) == ("chain_breaks", str(breaks))


def test_unknown_fraction_excludes_gaps():
    """One of four residues; including the gap it would be three of six."""
    lines = [line for place, name in ((0, "ALA"), (1, "UNK"), (4, "ALA"), (5, "ALA")) for line in residue(place, name)]
    assert only(lines, filters={"max_unknown_fraction": 0.25}).sequence == "AXXXAA"
    assert refusal(lines, filters={"max_unknown_fraction": 0.24}).code == "too_many_unknown"


def predicted(confidence: list[float]) -> list[str]:
    lines = ["TITLE     ALPHAFOLD MONOMER V2.0 PREDICTION FOR SOMETHING"]
    return lines + [line for place, value in enumerate(confidence) for line in residue(place, b_factor=value)]


def test_confidence_is_read_from_predicted_models_only():
    assert only(predicted([90.0, 80.0])).plddt.tolist() == [90, 80]
    assert only(predicted([0.9, 0.8])).plddt.tolist() == pytest.approx([90, 80])
    assert only(predicted([1.0, 0.5])).plddt.tolist() == [100, 50]
    assert only(chain("AA")).plddt is None
    assert only(chain("AA"), reading={"plddt": "b_factor"}).plddt.tolist() == [20, 20]
    assert only(predicted([90.0, 80.0]), reading={"plddt": "none"}).plddt is None


def test_confidence_filters_test_the_chain_before_trimming_its_ends():
    values = [40.0, 60.0, 95.0, 55.0, 95.0, 65.0]
    assert refusal(predicted(values), filters={"min_plddt": 68.4}).code == "low_plddt"
    assert only(predicted(values), filters={"min_plddt": 68.3}).sequence == "A" * 6
    deviation = float(np.std(values))
    assert refusal(predicted(values), filters={"max_plddt_deviation": deviation - 0.1}).code == "plddt_spread"
    trimmed = only(
        predicted(values), filters={"trim_plddt": 70, "min_plddt": 68, "max_plddt_deviation": deviation + 0.1}
    )
    assert trimmed.plddt.tolist() == [95, 55, 95]
    assert trimmed.residue_index.tolist() == [3, 4, 5]
    assert refusal(predicted(values), filters={"trim_plddt": 99}).code == "low_plddt"
    assert only(chain("AAA"), filters={"trim_plddt": 99, "min_plddt": 99, "max_plddt_deviation": 1}).sequence == "AAA"
    on_the_bound = {"min_plddt": 70, "max_plddt_deviation": 10, "trim_plddt": 60}
    assert only(predicted([60.0, 80.0, 60.0, 80.0]), filters=on_the_bound).sequence == "AAAA"


def test_confidence_filters_do_not_count_gaps():
    """Six of ten residues exist, all with confidence 90: a gap has no confidence, rather than zero."""
    lines = predicted([90.0, 90.0, 90.0]) + [line for n in (7, 8, 9) for line in residue(n, b_factor=90.0)]
    found = only(lines, filters={"min_plddt": 89.9, "max_plddt_deviation": 0.1})
    assert found.sequence == "AAAXXXXAAA"
    assert refusal(lines, filters={"min_plddt": 90.1}).code == "low_plddt"


@pytest.mark.parametrize(
    ("missing", "expected"), [((), 20), (("CA",), 10), (("CA", "N"), 30), (("N",), 20), (("N", "C"), 20)]
)
def test_confidence_is_from_ca_then_n_then_c(missing, expected):
    factors = {"N": 10.0, "CA": 20.0, "C": 30.0, "O": 40.0}
    middle = [line for name, value in factors.items() for line in residue(2, b_factor=value, skip={*ATOMS} - {name})]
    middle = [line for line in middle if line[12:16].strip() not in missing]
    found = only(chain("AA") + middle + residue(3), reading={"plddt": "b_factor"})
    assert found.plddt[2] == expected


def test_secondary_structure_and_radius_of_ubiquitin():
    """By biotite; more strand than helix, and both of them."""
    path = Path(__file__).parents[2] / "data" / "demo" / "motifs" / "1ubq_A.bcif.gz"
    ((found,), refused) = clean_entry(read_structure(path), settings())
    with gzip.open(path) as stream:
        atoms = get_structure(BinaryCIFFile.read(stream), model=1)
    alpha = atoms[atoms.atom_name == "CA"]
    kinds = annotate_sse(alpha).tolist()
    assert [found.helix, found.strand, found.coil] == pytest.approx([kinds.count(kind) / 76 for kind in "abc"])
    assert found.strand > found.helix > 0 and not refused
    assert found.radius_of_gyration == pytest.approx(gyration_radius(alpha), rel=1e-4)
