"""Motifs whose references have other residue numbers than 1, 2, 3 or other chain ids than A.

The expected results of the files in ``cases`` are in their MANIFEST.csv; synthetic files have the same features.
"""

import csv
import json
import re

import numpy as np
import pytest

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.generation.inputs import chains_of
from dplm2.generation.motifs import read_motifs
from dplm2.generation.samples import read_samples
from tests.structures.made import STEP, residue

LETTERS = "ACDEFGHIKL"
NAMES = ["ALA", "CYS", "ASP", "GLU", "PHE", "GLY", "HIS", "ILE", "LYS", "LEU"]


def reference(path, numbers, chain="A", gap_after=None):
    """Ten residues ``ACDEFGHIKL`` in a row with the given numbers (``52A``); a gap of two follows ``gap_after``."""
    lines = []
    for place, (name, number) in enumerate(zip(NAMES, numbers, strict=True)):
        digits, insertion = re.fullmatch(r"(-?\d+)([A-Z]?)", number).groups()
        offset = (2 * STEP, 0.0, 0.0) if gap_after is not None and place > gap_after else (0.0, 0.0, 0.0)
        lines += residue(place, name, int(digits), offset, chain=chain, insertion=insertion)
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def motif(tmp_path, contig, total=None, **made):
    """The motif of a contig in a synthetic reference."""
    reference(tmp_path / "r.pdb", **made)
    limit = "" if total is None else f"\ntotal_length: {total}"
    (tmp_path / "p.yaml").write_text(f"reference: r.pdb\ncontig: {contig}{limit}\n")
    (found,) = read_motifs([tmp_path / "p.yaml"], None, "reference", no_tokens)
    return found


def no_tokens(backbones):
    return [np.zeros(len(backbone), np.uint16) for backbone in backbones]


KABAT = ["50", "51", "52", "52A", "52B", "52C", "53", "54", "55", "56"]
IMGT = ["110", "111", "111A", "112B", "112A", "112", "113", "114", "115", "116"]
SKIPPING = ["9", "10", "13", "14", "15", "16", "17", "18", "19", "20"]


@pytest.mark.parametrize(
    ("numbers", "contig", "sequence"),
    [
        (KABAT, "2,A52-52A,2", "DE"),
        (KABAT, "2,A52,2", "D"),
        (KABAT, "2,A52B,2", "F"),
        (KABAT, "2,A51-53,2", "CDEFGH"),
        (KABAT, "2,A52B-54,2", "FGHI"),
        (KABAT, "[2/A51-52/1/A52C-53/2]", "CDGH"),
        (IMGT, "2,A111-112,2", "CDEFG"),
        (IMGT, "2,A111A-112A,2", "DEF"),
        (SKIPPING, "2,A10-14,2", "CDE"),
    ],
)
def test_ranges_with_insertion_codes_follow_the_file_order(tmp_path, numbers, contig, sequence):
    found = motif(tmp_path, contig, numbers=numbers)
    assert found.sequence == sequence
    rows = [LETTERS.index(letter) for letter in sequence]
    whole = chains_of(tmp_path / "r.pdb")[0].backbone
    np.testing.assert_array_equal(found.backbone, whole[rows])


def test_the_total_counts_inserted_residues(tmp_path):
    assert motif(tmp_path, "2,A51-53,2", total=10, numbers=KABAT).problem.draw_lengths(np.random.default_rng(0)) == [
        2, 6, 2
    ]  # fmt: skip
    with pytest.raises(DPLM2Error, match="problem p: motif and longest spacers are 10 residues, fewer than .* 11"):
        motif(tmp_path, "2,A51-53,2", total=11, numbers=KABAT)


@pytest.mark.parametrize(
    ("contig", "message", "more"),
    [
        ("A52D", "problem p: its reference has no residue 52D in chain A, but 52, 52A, 52B, 52C", {}),
        ("A53A-55", "no residue 53A in chain A, but 53", {}),
        ("A54-60", "no residue 57 in chain A", {}),
        ("A52B-52", "residue numbers of its reference do not increase along A52B-52", {}),
        ("A10-14", "no residue 11 in chain A", {"numbers": SKIPPING, "gap_after": 1}),
        ("B1-3", "has no chain B; available: A", {}),
        ('"A-2"1-3', 'has no chain "A-2"; available: A', {}),
    ],
)
def test_missing_residues_are_named(tmp_path, contig, message, more):
    with pytest.raises(DPLM2Error, match=message):
        motif(tmp_path, f"2,{contig},2", **{"numbers": KABAT, **more})


def test_error_for_an_unusable_reference_chain_says_why(tmp_path):
    """Numbers increase by 3 over 40 angstrom, so that it may not be one molecule."""
    path = reference(tmp_path / "r.pdb", SKIPPING, gap_after=1)
    far = [
        f"{line[:30]}{float(line[30:38]) + 40 * (int(line[22:26]) > 10):8.3f}{line[38:]}"
        if line[:4] == "ATOM"
        else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join([*far, ""]))
    (tmp_path / "p.yaml").write_text("reference: r.pdb\ncontig: 2,A10-13,2\n")
    with pytest.raises(DPLM2Error, match=r"r.pdb: no protein chain with a backbone \(chain A: .+\)"):
        read_motifs([tmp_path / "p.yaml"], None, "reference", no_tokens)


@pytest.mark.parametrize("contig", ["A3-5", "B3-5", '""3-5', "_/3-5"])
def test_single_chain_with_blank_id_matches_any_letter(tmp_path, contig):
    assert motif(tmp_path, f"2,{contig},2", numbers=list("123456789") + ["10"], chain=" ").sequence == "DEF"


def test_blank_chain_among_several_must_be_named_explicitly(tmp_path):
    numbers = list("123456789") + ["10"]
    blank = reference(tmp_path / "r.pdb", numbers, chain=" ").read_text().removesuffix("END\n")
    other = reference(tmp_path / "b.pdb", numbers, chain="B").read_text()
    (tmp_path / "r.pdb").write_text(blank + "TER\n" + other)
    for contig, message in [("A3-5", 'has no chain A; available: "", B'), ("_/3-5", None), ('""3-5', None)]:
        (tmp_path / "p.yaml").write_text(f"reference: r.pdb\ncontig: 2,{contig},2\n")
        if message:
            with pytest.raises(DPLM2Error, match=message):
                read_motifs([tmp_path / "p.yaml"], None, "reference", no_tokens)
        else:
            assert read_motifs([tmp_path / "p.yaml"], None, "reference", no_tokens)[0].sequence == "DEF"


@pytest.mark.parametrize("chain", ["A-2", "*", "A*", "1", "AA", "A.1"])
@pytest.mark.parametrize("contig", ["2,{}/3-5,2", '2,"{}"/3-5,2', '[2/"{}"3-5/2]'])
def test_any_chain_id_can_be_quoted(tmp_path, chain, contig):
    from biotite.structure import concatenate
    from biotite.structure.io import pdb, pdbx

    atoms = pdb.PDBFile.read(reference(tmp_path / "r.pdb", list("123456789") + ["10"])).get_structure(model=1)
    other = atoms.copy()
    atoms.chain_id = np.array([chain] * len(atoms), dtype="U8")
    other.chain_id = np.array(["Z"] * len(atoms), dtype="U8")
    other.coord += 100
    file = pdbx.CIFFile()
    pdbx.set_structure(file, concatenate([other, atoms]))
    file.write(str(tmp_path / "r.cif"))
    (tmp_path / "p.yaml").write_text(f"reference: r.cif\ncontig: {contig.format(chain)}\n")
    (found,) = read_motifs([tmp_path / "p.yaml"], None, "reference", no_tokens)
    assert found.sequence == "DEF" and found.backbone[:, :, 0].max() < 60


# The shared cases, by the command ------------------------------------------------------------------------------------

CASES = {
    "explicit.yaml": ("DG", 12, "5,H52-52A,5"),
    "through.yaml": ("FAGKQLEDGRTLSDYNIQK", 29, "5,H45-60,5"),
    "blank_A.yaml": ("GKTITLEVEPS", 21, "5,A10-20,5"),
    "dash.yaml": ("GKTITLEVEPS", 21, '5,"A-2"10-20,5'),
}


def scaffold(folders, problem, out):
    call = ["generate", "scaffolding", "--model", str(folders / "model"), "--out", str(out), "--device", "cpu"]
    return main([*call, "--problems", str(problem), "--set", "steps=1", "samples=1"])


@pytest.mark.parametrize("name", CASES)
def test_shared_cases_are_handled_as_expected(name, cases_folder, folders, tmp_path):
    sequence, length, contig = CASES[name]
    assert scaffold(folders, cases_folder / name, tmp_path / "out") == 0
    (row,) = read_samples(tmp_path / "out").to_pylist()
    assert row["length"] == length and "".join(row["sequence"][p] for p in row["motif_positions"]) == sequence
    assert json.loads(row["settings"])["sampled_contig"] == contig
    assert len(row["motif_backbone"]) == len(sequence) * 12


def test_case_without_a_motif_is_refused(cases_folder, folders, tmp_path, capsys):
    assert scaffold(folders, cases_folder / "blank.yaml", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "problem blank: no motif" in line and not (tmp_path / "out").exists()


def test_every_case_is_tested(cases_folder):
    with (cases_folder / "MANIFEST.csv").open() as stream:
        names = {row["file"] for row in csv.DictReader(stream) if row["kind"] == "motif"}
    assert names <= {*CASES, "blank.yaml"}
