"""Several molecules under one chain id: separated or rejected, never mixed or lost."""

import itertools

import numpy as np
import pytest

from dplm2.structures.reading import parse
from tests.structures.made import atom, chain, clean, only, refusal, residue, seqres, settings
from tests.structures.molecules import APART, FIRST, SECOND, TER, in_segment, molecule, observed, places, water


def named(lines: list[str]) -> dict[str, str]:
    """Observed sequences of the clean chains by name; none are mixed or refused."""
    chains, refusals = clean(lines)
    assert not refusals
    assert all(len(places(one)) == 1 for one in chains)
    return {one.author_chain: observed(one) for one in chains}


RUN_ON, JUMP = len(FIRST) + 1, len(FIRST) + 101


@pytest.mark.parametrize("chain_id", ["A", ""])
@pytest.mark.parametrize("start", [1, RUN_ON, JUMP, -20], ids=["restart", "run on", "jump", "fall"])
@pytest.mark.parametrize("ter", [True, False])
@pytest.mark.parametrize("oxygen", [True, False])
@pytest.mark.parametrize("segments", [("", ""), ("PROA", "PROB")])
@pytest.mark.parametrize("missing", [(), (1, 2, 3), (20, 21, 22)])
def test_two_molecules_with_one_id_are_two_chains(chain_id, start, ter, oxygen, segments, missing):
    first = molecule(FIRST, 0, chain=chain_id, ter=ter, oxygen=oxygen, segment=segments[0], missing=missing)
    second = molecule(SECOND, 1, chain=chain_id, ter=ter, oxygen=oxygen, segment=segments[1], start=start)
    chains, refusals = clean(first + second)
    if not (ter or oxygen or segments[0]) and start == JUMP and chain_id:
        pytest.skip("a gap of a hundred residues looks the same")
    if not (ter or oxygen or segments[0]) and start in (RUN_ON, JUMP):
        assert ([one.code for one in refusals], chains) == (["ambiguous_chain"], [])
        return
    assert not refusals
    whole = "".join(letter for i, letter in enumerate(FIRST) if i + 1 not in missing)
    assert [observed(one) for one in chains] == [whole, SECOND]
    assert [places(one) for one in chains] == [{0}, {1}]


def test_ids_are_made_unique_in_the_order_of_the_file():
    lines = molecule(FIRST) + molecule(SECOND, 1) + molecule(FIRST, 2, chain="B") + molecule(FIRST, 3)
    assert named(lines) == {"A": FIRST, "A-2": SECOND, "B": FIRST, "A-3": FIRST}
    # Ids that other chains already have are skipped.
    taken = [line.replace(" A ", " Z ") for line in chain("ACDE")]
    assert list(named(molecule(FIRST, chain="") + molecule(SECOND, 1, chain="") + taken)) == ["", "blank-2", "Z"]


def test_segment_ids_name_molecules_under_a_blank_id():
    lines = molecule(FIRST, chain="", segment="PROA") + molecule(FIRST, 1, chain="", segment="PROB")
    assert named(lines) == {"PROA": FIRST, "PROB": FIRST}
    # A single molecule keeps the blank id, as do molecules with the same segment id.
    assert named(molecule(FIRST, chain="", segment="1UBQ")) == {"": FIRST}


@pytest.mark.parametrize("count", [3, 12, 30])
def test_many_copies_are_separated(count):
    lines = [line for place in range(count) for line in molecule(FIRST, place, ter=place % 2 == 0)]
    assert named(lines) == {("A" if i == 0 else f"A-{i + 1}"): FIRST for i in range(count)}


def test_copies_of_unequal_occupancy_are_separated():
    assert named(molecule(FIRST, occupancy=0.4) + molecule(FIRST, 1, occupancy=0.6)) == {"A": FIRST, "A-2": FIRST}


def test_residues_missing_in_one_copy_are_not_taken_from_another():
    chains, _ = clean(molecule(FIRST, missing=(20, 21, 22)) + molecule(FIRST, 1))
    assert np.flatnonzero(~chains[0].observed_L).tolist() == [19, 20, 21]
    assert np.isnan(chains[0].backbone_LAX[19:22]).all()
    assert chains[1].observed_L.all()


@pytest.mark.parametrize("missing", [(1, 2), (15, 16), (33, 34)])
@pytest.mark.parametrize("ter", [True, False])
def test_copies_with_missing_residues_are_separated(missing, ter):
    rest = "".join(letter for i, letter in enumerate(FIRST) if i + 1 not in missing)
    assert named(molecule(FIRST, ter=ter) + molecule(FIRST, 1, missing=missing, ter=ter)) == {"A": FIRST, "A-2": rest}
    assert named(molecule(FIRST, missing=missing, ter=ter) + molecule(FIRST, 1, ter=ter)) == {"A": rest, "A-2": FIRST}


def test_repeated_chain_ids_are_separated():
    lines = []
    for place, (name, sequence) in enumerate([("A", FIRST), ("B", SECOND), ("A", FIRST), ("B", SECOND)]):
        lines += molecule(sequence, place, chain=name)
    assert named(lines) == {"A": FIRST, "B": SECOND, "A-2": FIRST, "B-2": SECOND}


def by_residue(*molecules: list[str]) -> list[str]:
    """The lines of molecules, residue by residue: 1 of the first, 1 of the second, 2 of the first, ..."""
    split = [[list(group) for _, group in itertools.groupby(one, key=lambda line: line[22:27])] for one in molecules]
    return [line for groups in itertools.zip_longest(*split, fillvalue=[]) for group in groups for line in group]


def test_alternating_residues_are_separated_by_segments_or_bonds():
    first, second = molecule(FIRST, ter=False), molecule(SECOND, 1, ter=False)
    segments = in_segment(first, "PROA"), in_segment(second, "PROB")
    assert named(by_residue(*segments)) == {"A": FIRST, "A-2": SECOND}
    assert named(by_residue(first, second)) == {"A": FIRST, "A-2": SECOND}
    third = molecule(FIRST, 2, ter=False)
    assert named(by_residue(first, second, third)) == {"A": FIRST, "A-2": SECOND, "A-3": FIRST}


def test_alternating_atoms_are_ambiguous():
    first, second = molecule(FIRST, ter=False), molecule(FIRST, 1, ter=False)
    lines = [line for pair in zip(first, second, strict=True) for line in pair]
    found = refusal(lines)
    assert (found.chain, found.code) == ("A", "ambiguous_chain")
    assert "far apart" in found.reason
    assert "A-2" in named(in_segment(first, "P1") + in_segment(second, "P2"))


def test_residues_of_alternating_molecules_with_gaps_are_never_joined():
    first = molecule(FIRST, ter=False, oxygen=False, missing=(10, 11))
    second = molecule(FIRST, 1, ter=False, oxygen=False, missing=(20, 21, 22))
    assert refusal(by_residue(first, second)).code == "ambiguous_chain"


def test_ter_inside_a_chain_does_not_end_it():
    lines = chain(FIRST)
    assert named([*lines[:40], TER, *lines[40:]]) == {"A": FIRST}
    # Also in a gap that follows from the numbers; a longer one follows from SEQRES.
    gap = [*lines[:40], TER, *lines[52:]]
    assert only(gap).sequence == FIRST[:10] + "XXX" + FIRST[13:]
    long = FIRST + "A" * 60 + SECOND
    lines = chain(long)
    broken = [*lines[:136], TER, *lines[376:]]
    assert len(clean(broken)[0]) == 2
    assert only(seqres(long) + broken).sequence == long


def test_terminal_oxygen_at_a_gap_does_not_end_the_chain():
    lines = chain(FIRST)
    oxygen = atom("OXT", "GLY", number=10, at=(5.0 + 3.8 * 9 + 2.47, -1.23, 0))
    assert len(only([*lines[:40], oxygen, *lines[52:]])) == len(FIRST)


@pytest.mark.parametrize(
    "end",
    [
        [atom("C", "NME", number=35, at=(140.0, 3.0, 0.0))],
        [atom("CH3", "ACE", number=0, at=(1.0, 1.0, APART))],
    ],
    ids=["NME", "ACE"],
)
def test_caps_end_a_chain(end):
    second = molecule(SECOND, 1, start=60, ter=False, oxygen=False)
    assert named(molecule(FIRST, ter=False, oxygen=False) + end + second) == {"A": FIRST, "A-2": SECOND}


def test_terminal_residue_names_end_a_chain():
    first, second = molecule(FIRST, ter=False, oxygen=False), molecule(SECOND, 1, start=60, ter=False, oxygen=False)
    named_last = [line if line[22:26] != "  34" else line.replace("GLU A", "CGLUA") for line in first]
    assert named(named_last + second) == {"A": FIRST, "A-2": SECOND}
    hydrogens = [atom(name, "MET", number=60, at=(5.0, i, APART + 1)) for i, name in enumerate(("H1", "H2", "H3"))]
    assert named(first + second[:4] + hydrogens + second[4:]) == {"A": FIRST, "A-2": SECOND}


def test_waters_and_ligands_between_molecules_are_ignored():
    between = [water("   1"), water("   2"), atom("ZN", "ZN", number=201, at=(80, 80, 80), record="HETATM")]
    lines = molecule(FIRST) + between + [TER] + molecule(SECOND, 1) + between
    assert named(lines) == {"A": FIRST, "A-2": SECOND}


def test_numbers_that_restart_across_a_peptide_bond_are_one_molecule():
    lines = [line for place in range(10) for line in residue(place, number=place % 5 + 1, name="ALA")]
    found = only(lines)
    assert found.sequence == "A" * 10
    assert found.residue_index.tolist() == [1, 2, 3, 4, 5] * 2


def test_numbers_that_decrease_across_a_short_gap_are_one_molecule():
    lines = [line for place, number in ((0, 500), (1, 501), (4, 7), (5, 8)) for line in residue(place, number=number)]
    assert only(lines).residue_index.tolist() == [500, 501, 7, 8]


def test_alternate_locations_written_one_after_another_are_one_chain():
    one = molecule(FIRST, ter=False, oxygen=False, altloc="A", occupancy=0.4)
    other = [line[:38] + f"{float(line[38:46]) + 1.5:8.3f}" + line[46:] for line in one]
    other = [line[:16] + "B" + line[17:54] + "  0.60" + line[60:] for line in other]
    for lines in (one + other, by_residue(one, other)):
        found = only(lines)
        assert found.sequence == FIRST
        assert found.backbone_LAX[:, 1, 1] == pytest.approx(1.5)


@pytest.mark.parametrize("order", ["one after another", "by residue", "by atom"])
def test_distant_alternate_locations_are_molecules(order):
    """Unequal occupancies that are not ordered along the chain."""
    one, other = (molecule(FIRST, place, ter=False, oxygen=False, altloc="AB"[place]) for place in (0, 1))
    one = [line[:54] + f"{(0.4, 0.6)[i // 4 % 2]:6.2f}" + line[60:] for i, line in enumerate(one)]
    other = [line[:54] + f"{(0.6, 0.4)[i // 4 % 2]:6.2f}" + line[60:] for i, line in enumerate(other)]
    by_atom = [line for pair in zip(one, other, strict=True) for line in pair]
    lines = {"one after another": one + other, "by residue": by_residue(one, other), "by atom": by_atom}[order]
    assert named(lines) == {"A": FIRST, "A-2": FIRST}


def test_atoms_without_a_segment_id_have_that_of_their_residue():
    lines = []
    for place, segment in ((0, "PROA"), (1, "PROB")):
        for number, line in enumerate(molecule(FIRST, place, segment=segment)):
            lines.append(line)
            if line != TER and number % 4 == 3:
                lines.append(f"{line[:12]} H  {line[16:72]}    {line[76:]}")
    assert named(lines) == {"A": FIRST, "A-2": FIRST}


def test_first_of_several_models_in_one_chain_is_kept():
    draw = np.random.default_rng(0)
    lines = []
    for _ in range(5):
        for line in molecule(FIRST, oxygen=False):
            moved = (
                "".join(f"{float(line[i : i + 8]) + draw.normal(0, 0.5):8.3f}" for i in (30, 38, 46))
                if line != TER
                else ""
            )
            lines.append(line[:30] + moved + line[54:] if moved else line)
    assert only(lines).sequence == FIRST


def test_modified_residue_after_its_chain_is_reinserted():
    lines = chain("ACDEFGH")
    mse = residue(3, "MSE", record="HETATM")
    assert only([*lines[:12], *lines[16:], TER, *mse]).sequence == "ACDMFGH"


def test_partial_charges_are_not_segment_ids():
    lines = molecule(FIRST)
    charged = [line if line == TER else f"{line[:70]}{i % 7 / 100:6.3f}" for i, line in enumerate(lines)]
    assert named(charged) == {"A": FIRST}


def mmcif(*rows: tuple[str, str, int, str], entities: str = "", head: str = "data_x") -> bytes:
    """mmCIF text of molecules: author's chain, label chain, position, sequence; the entity is the position, from 1."""
    items = "group_PDB id label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id Cartn_x"
    items += " Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id"
    lines = [head, "#", *([entities, "#"] if entities else []), "loop_"]
    lines += [f"_atom_site.{item}" for item in items.split()]
    for author, label, place, sequence in rows:
        for line in molecule(sequence, place, ter=False, oxygen=False):
            x, y, z = (line[i : i + 8].strip() for i in (30, 38, 46))
            name, residue_name, number = line[12:16].strip(), line[17:20], line[22:26].strip()
            fields = [
                "ATOM",
                "1",
                name,
                ".",
                residue_name,
                label,
                str(place + 1),
                number,
                x,
                y,
                z,
                "1",
                "9",
                number,
                author,
            ]
            lines.append(" ".join(fields))
    return "\n".join([*lines, "#", ""]).encode()


def cleaned(data: bytes) -> dict[str, str]:
    from dplm2.structures.cleaning import clean_entry

    chains, refusals = clean_entry(parse(data, settings().reading), settings())
    assert not refusals
    assert all(len(places(one)) == 1 for one in chains)
    return {one.author_chain: one.sequence for one in chains}


POLY = "loop_\n_entity_poly.entity_id\n_entity_poly.type\n1 {}\n2 {}"


@pytest.mark.parametrize("entities", ["", POLY.format("'polypeptide(L)'", "'polypeptide(L)'")])
def test_label_chains_with_one_author_chain_are_separated(entities):
    rows = ("A", "A", 0, FIRST), ("A", "B", 1, SECOND), ("A", "C", 2, FIRST), ("D", "D", 3, SECOND)
    entities = entities + "\n3 'polypeptide(L)'\n4 'polypeptide(L)'" if entities else ""
    assert cleaned(mmcif(*rows, entities=entities)) == {"A": FIRST, "A-2": SECOND, "A-3": FIRST, "D": SECOND}


@pytest.mark.parametrize("entities", ["", POLY.format("'polypeptide(L)'", "'polypeptide(L)'")])
def test_copies_with_one_label_chain_are_separated(entities):
    rows = ("A", "A", 0, FIRST), ("A", "A", 1, FIRST)
    assert cleaned(mmcif(*rows, entities=entities)) == {"A": FIRST, "A-2": FIRST}


@pytest.mark.parametrize("kind", ["?", "other", "protein", "'POLYPEPTIDE(L)'", "."])
def test_polymer_types_are_recognised(kind):
    rows = ("A", "A", 0, FIRST), ("B", "B", 1, SECOND)
    assert cleaned(mmcif(*rows, entities=POLY.format(kind, kind))) == {"A": FIRST, "B": SECOND}
    nucleic = POLY.format(kind, "polydeoxyribonucleotide")
    assert cleaned(mmcif(*rows, entities=nucleic)) == {"A": FIRST}


@pytest.mark.parametrize(
    "change", [bytes.upper, lambda data: data.replace(b"loop_", b"LOOP_").replace(b"data_", b"Data_")]
)
def test_upper_case_mmcif_keywords_are_read(change):
    data = mmcif(("A", "A", 0, FIRST), entities=POLY.format("protein", "protein"))
    assert cleaned(change(data)) == {"A": FIRST}
