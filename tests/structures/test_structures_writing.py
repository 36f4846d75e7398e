"""Structure files, read back by biotite and by this package."""

import numpy as np
import pytest
from biotite.structure.io import load_structure

from dplm2.core.errors import DPLM2Error
from dplm2.structures.molecules import protein_chains
from dplm2.structures.reading import read_structure
from dplm2.structures.writing import write_structure

SEQUENCE = "MKVXW"


@pytest.fixture
def backbone():
    made = np.random.default_rng(0).uniform(-40, 40, size=(5, 4, 3)).astype(np.float32)
    made[1, 3] = np.nan
    return made


@pytest.mark.parametrize("ending", ["bcif", "bcif.gz", "cif", "pdb"])
def test_every_format_survives_a_round_trip(tmp_path, backbone, ending):
    path = tmp_path / f"made.{ending}"
    confidence = np.array([0, 25.5, 50, 75, 100])
    write_structure(path, SEQUENCE, backbone, confidence)
    entry = read_structure(path)
    atoms = entry.atoms
    assert len(atoms) == 19
    np.testing.assert_allclose(atoms.coords, backbone[np.isfinite(backbone).all(-1)], atol=2e-3)
    assert list(dict.fromkeys(atoms.residue.tolist())) == ["MET", "LYS", "VAL", "UNK", "TRP"]
    np.testing.assert_allclose(atoms.b_factor[atoms.name == "CA"], confidence, atol=0.01)
    assert [chain.author_chain for chain in protein_chains(entry)] == ["A"]
    if ending != "bcif.gz":
        theirs = load_structure(path, extra_fields=["b_factor"])
        np.testing.assert_allclose(theirs.coord, backbone[np.isfinite(backbone).all(-1)], atol=2e-3)


def test_equal_chains_are_written_to_equal_bytes(tmp_path, backbone):
    for name in ("one", "two"):
        write_structure(tmp_path / name / "made.bcif.gz", SEQUENCE, backbone)
    assert (tmp_path / "one/made.bcif.gz").read_bytes() == (tmp_path / "two/made.bcif.gz").read_bytes()


def test_backbone_of_three_atoms_has_no_oxygen(tmp_path, backbone):
    write_structure(tmp_path / "made.pdb", SEQUENCE, backbone[:, :3])
    assert set(read_structure(tmp_path / "made.pdb").atoms.name.tolist()) == {"N", "CA", "C"}


@pytest.mark.parametrize(
    ("name", "sequence", "shape", "message"),
    [
        ("x.xyz", "AA", (2, 4, 3), "must end with"),
        ("x.pdb", "AAA", (2, 4, 3), "3 letters for a backbone of 2"),
        ("x.pdb", "AA", (2, 5, 3), "shape"),
        ("x.pdb", "A" * 10000, (10000, 4, 3), "exceeds the limits of the PDB format"),
    ],
)
def test_invalid_output_is_reported(tmp_path, name, sequence, shape, message):
    with pytest.raises(DPLM2Error, match=message):
        write_structure(tmp_path / name, sequence, np.ones(shape))
    assert not (tmp_path / name).exists()
