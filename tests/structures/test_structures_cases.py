"""Small files with features of other programs, against the expectations in their manifest."""

import csv
import gzip
import re

import pytest

from dplm2.structures.cleaning import clean_entry
from dplm2.structures.components import component, letters
from dplm2.structures.reading import parse, read_structure
from tests.conftest import SHARED
from tests.structures.made import atom, chain, clean, only, read, residue, settings
from tests.structures.molecules import FIRST, SECOND, molecule, observed, water

CASES = SHARED / "cases"
ROWS = []
if (CASES / "MANIFEST.csv").is_file():
    with (CASES / "MANIFEST.csv").open(newline="") as stream:
        ROWS = [row for row in csv.DictReader(stream) if row["kind"] == "structure"]
UBIQUITIN, PHOSPHOCARRIER = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG", "MFQQEVTITA"
# Names of the chains that the manifest does not specify.
NAMES = {
    "openmm_allA_ter": ["A", "A-2"], "homodimer_allA_ter": ["A", "A-2"], "homodimer_first_incomplete": ["A", "A-2"],
    "charmm_dimer_blank_ter": ["PROA", "PROB"], "gromacs_blank_restart_ter": ["", "blank-2"],
    "amber_blank_continuous_ter": ["", "blank-2"], "chimerax_two_letter": ["AA", "BA"],
    "same_auth_two_label": ["A", "A-2"], "same_auth_two_label_with_entities": ["A", "A-2"],
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_structures_are_read_as_in_their_manifest(row):
    """The manifest gives the number of residues, the letter of residue 30, or a rejection by pLDDT."""
    stem, expected = row["file"].split(".")[0], row["expected"]
    entry = read_structure(CASES / row["file"])
    if "low" in stem:
        chains, refusals = clean_entry(entry, settings(filters={"min_plddt": 70.0}))
        assert ([one.code for one in refusals], chains) == (["low_plddt"], [])
        return
    chains, refusals = clean_entry(entry, settings())
    assert not refusals
    if found := re.search(r"residue 30 is (\w)", expected):
        assert [one.sequence for one in chains] == [UBIQUITIN[:29] + found[1] + UBIQUITIN[30:]]
        return
    lengths = [int(text) for text in re.findall(r"\b(?:76|85)\b", expected)]
    if "two chains" in expected:
        lengths = (2 * (lengths or [76]))[:2]
    assert [len(one) for one in chains] == lengths
    assert [one.author_chain for one in chains] == NAMES.get(stem, [chains[0].author_chain])
    for one in chains:
        assert one.sequence.startswith(UBIQUITIN[:10] if len(one) == 76 else PHOSPHOCARRIER)
        gaps = [20, 21, 22] if stem == "homodimer_first_incomplete" and one is chains[0] else []
        assert one.residue_index[~one.observed_L].tolist() == gaps


def test_all_structures_of_the_manifest_exist():
    if not ROWS:
        pytest.skip("needs cases/ of the shared test data")
    assert len(ROWS) == 19


def test_six_digit_serial_numbers_are_read():
    lines = chain(FIRST)
    in_six = [f"ATOM {100000 + i}{line[11:]}" for i, line in enumerate(lines)]
    assert only(in_six).sequence == FIRST
    # In some programs longer numbers shift the following columns, which the coordinates reveal.
    shifted = [f"ATOM  {100000 + i}{line[11:]}" for i, line in enumerate(lines)]
    assert only(lines[:20] + shifted[20:]).sequence == FIRST
    # The shift also occurs in HETATM records, and with seven-digit numbers from column 5.
    hetero = [f"HETATM{100000 + i}{line[11:]}" for i, line in enumerate(lines)]
    assert only(hetero).sequence == FIRST
    assert only([f"ATOM {1000000 + i}{line[12:]}" for i, line in enumerate(lines)]).sequence == FIRST


@pytest.mark.parametrize("number", ["271a", "A000", "****", "    ", "1e+5", "-12a"])
@pytest.mark.parametrize("name", ["TIP3", "HOH", "SOL", "WAT", " HOH", "POPC", "NA"])
def test_broken_water_or_lipid_record_is_ignored(number, name):
    for lines in ([water(number, name=name)], [water(name=name, coordinates="*" * 24)], [water(name=name)[:40]]):
        assert only(chain(FIRST) + lines).sequence == FIRST


def test_broken_protein_record_refuses_the_file():
    from dplm2.structures.atoms import UnreadableError

    line = atom("CA", "GLY", number=40, at=(200, 0, 0))
    for broken in (line[:45], line[:35] + "*" * 8 + line[43:], line[:18], line.replace("  40 ", " 4x0 ")):
        with pytest.raises(UnreadableError, match=f"line {len(chain(FIRST)) + 1} is invalid"):
            read([*chain(FIRST), broken])


@pytest.mark.parametrize(
    ("names", "letter"),
    [
        ("HIS HID HIE HIP HSD HSE HSP HISA HISB HISH HISD HISE HIS1 HIS2 NHIS CHIE NHIP CHID", "H"),
        ("CYS CYX CYM CYN CYZ CYS2 CYSH NCYX CCYS", "C"),
        ("LYS LYN LYP LSN LYSH NLYS CLYP", "K"),
        ("ARG ARN AR0 ARGN NARG CARG", "R"),
        ("ASP ASH ASPH ASPP NASP CASP", "D"),
        ("GLU GLH GLUH GLUP NGLU CGLU", "E"),
        ("TYR TYM NTYR CTYR", "Y"),
        ("MET MSE NMET CMET met Met", "M"),
        ("PRO NPRO CPRO NHYP pro", "P"),
    ],
)
def test_force_field_and_lower_case_names_are_read(names, letter):
    assert letters(names.split()) == letter * len(names.split())
    for name in names.split():
        column = f"{name:<4}" if len(name) == 4 else f"{name} "
        lines = [line[:17] + column + line[21:] for line in residue(3)]
        assert only(chain("ACD") + lines + residue(4)).sequence == f"ACD{letter}A"
        assert only(chain("AC", chain=" ") + [x[:21] + " " + x[22:] for x in residue(2) + lines]).sequence[-1] == letter


def test_small_molecule_names_need_a_backbone():
    assert not component("CYZ").amino_acid
    ligand = [atom(f"C{i}", "CYZ", number=900, at=(50, 50, i)) for i in range(6)]
    assert only(chain(FIRST) + ligand).sequence == FIRST
    # Sugars of GLYCAM differ from amino acids only in case.
    assert not component("0Yb").amino_acid


def test_two_letter_chain_ids_and_four_letter_residue_names():
    lines = []
    for place, (name, sequence) in enumerate([("AA", FIRST), ("BA", SECOND), ("HA", FIRST), ("B", SECOND)]):
        own = molecule(sequence, place, chain="x")
        lines += [line if line == "TER" else f"{line[:20]}{name:>2}{line[22:]}" for line in own]
    chains, refusals = clean(lines)
    assert not refusals
    assert {one.author_chain: observed(one) for one in chains} == {"AA": FIRST, "BA": SECOND, "HA": FIRST, "B": SECOND}
    # With four-letter residue names a chain id has one letter.
    ends = [line.replace("MET A", "NMETA") for line in molecule(FIRST)] + [water(name="TIP3", chain="W")]
    assert [one.author_chain for one in clean(ends)[0]] == ["A"]


def test_right_aligned_residue_names_are_read():
    assert only([f"{line[:17]} {line[17:20]}{line[21:]}" for line in chain("ACDE")]).sequence == "ACDE"


def model(b_factor: float, head: list[str] = (), **columns) -> bytes:
    return "\n".join([*head, *chain(FIRST, b_factor=b_factor, **columns), "TER", "ENDMDL", "END", ""]).encode()


@pytest.mark.parametrize(
    "head",
    [
        ["PARENT N/A"],
        ["MODEL     1"],
        [f"{'MODEL     1':<80}"],
        ["TITLE     ESMFold V1 prediction for input"],
        ["REMARK   1 OmegaFold"],
        ["REMARK   Boltz-2 model"],
        ["HEADER    ColabFold v1.5.5"],
        ["EXPDTA    THEORETICAL MODEL"],
        ["EXPDTA    PREDICTED BY OPENFOLD"],
    ],
)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_predictions_are_recognised_by_their_headers(head, scale):
    entry = parse(model(0.3 * scale, head), settings().reading)
    assert entry.predicted
    chains, refusals = clean_entry(entry, settings(filters={"min_plddt": 70.0}))
    assert ([one.code for one in refusals], chains) == (["low_plddt"], [])


@pytest.mark.parametrize(
    "head",
    [
        [],
        ["MODEL        1"],
        ["EXPDTA    X-RAY DIFFRACTION", "REMARK 200 STARTING MODEL: ALPHAFOLD"],
        ["REMARK   1  AUTH   L.BOLTZ"],
        ["SOURCE    MOL_ID: 1; CHAIN: A"],
    ],
)
def test_structures_without_such_headers_are_not_predictions(head):
    assert not parse(model(30.0, head), settings().reading).predicted


def test_model_record_alone_does_not_mark_a_prediction():
    data = model(30.0, ["MODEL     1"]).replace(b" 30.00", b" 31.00", 1)
    assert not parse(data, settings().reading).predicted
    assert not parse(model(0.0, ["MODEL     1"]), settings().reading).predicted


def test_gzipped_files_are_read_the_same(tmp_path):
    (tmp_path / "x").write_bytes(gzip.compress(model(0.3, ["PARENT N/A"])))
    assert read_structure(tmp_path / "x").predicted
