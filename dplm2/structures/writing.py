"""Writing one chain's backbone as a structure file for any viewer."""

import gzip
import io
import os
from pathlib import Path
from typing import Literal

import numpy as np

from dplm2.core.artifacts import atomic_path
from dplm2.core.errors import DPLM2Error
from dplm2.structures.components import THREE_LETTERS
from dplm2.structures.store import BACKBONE_ATOMS

WRITTEN_ENDINGS = (".bcif", ".bcif.gz", ".cif", ".pdb")
LONGEST_PDB_CHAIN = 9999


def write_structure(
    path: str | os.PathLike, sequence: str, backbone_LAX: np.ndarray, plddt_L: np.ndarray | None = None
) -> None:
    """Write one chain, atomically; the extension of ``path`` determines the format.

    Parameters
    ----------
    path
        Ends with ``.bcif``, ``.bcif.gz``, ``.cif`` or ``.pdb``.
    sequence
        One letter per residue; a letter other than the 20 amino acids is written as UNK.
    backbone_LAX
        (L, 3 or 4, 3): N, CA, C and, if given, O, in angstrom. Atoms with non-finite coordinates are omitted.
    plddt_L
        (L,) confidence, 0 to 100, written as B factor (0 without it).

    Raises
    ------
    DPLM2Error
        If the extension is unknown, the lengths differ, or the chain exceeds the PDB format.
    """
    path, backbone_LAX = Path(path), np.asarray(backbone_LAX, dtype=np.float32)
    ending = next((e for e in sorted(WRITTEN_ENDINGS, key=len, reverse=True) if path.name.lower().endswith(e)), None)
    if ending is None:
        raise DPLM2Error(f"{path}: unknown format; the name must end with one of {', '.join(WRITTEN_ENDINGS)}")
    if backbone_LAX.ndim != 3 or backbone_LAX.shape[1] not in (3, 4) or backbone_LAX.shape[2] != 3:
        raise DPLM2Error(f"{path}: a backbone has the shape (residues, 3 or 4, 3), not {backbone_LAX.shape}")
    if len(sequence) != len(backbone_LAX) or (plddt_L is not None and len(plddt_L) != len(sequence)):
        raise DPLM2Error(f"{path}: {len(sequence)} letters for a backbone of {len(backbone_LAX)} residues")
    _refuse_beyond_pdb(path, ending.removeprefix("."), sequence, backbone_LAX)
    atoms = atom_array(sequence, backbone_LAX, plddt_L)
    with atomic_path(path) as temporary:
        _write(temporary, ending, atoms, entry=path.name[: -len(ending)] or "model")


def structure_text(
    kind: Literal["pdb", "mmcif"], sequence: str, backbone_LAX: np.ndarray, plddt_L: np.ndarray | None, entry: str
) -> str:
    """One chain as the text of a PDB or mmCIF file; parameters as of `write_structure`.

    Raises
    ------
    DPLM2Error
        If no atom has coordinates, or the chain exceeds the PDB format.
    """
    _refuse_beyond_pdb(entry, kind, sequence, backbone_LAX)
    return _text(kind, atom_array(sequence, backbone_LAX, plddt_L), entry)


def _refuse_beyond_pdb(what: str | os.PathLike, kind: str, sequence: str, backbone_LAX: np.ndarray) -> None:
    if kind == "pdb" and (len(sequence) > LONGEST_PDB_CHAIN or np.nanmax(np.abs(backbone_LAX), initial=0) >= 1000):
        raise DPLM2Error(f"{what}: this chain exceeds the limits of the PDB format; write .bcif or .cif instead")


def atom_array(sequence: str, backbone_LAX: np.ndarray, plddt_L: np.ndarray | None):  # noqa: ANN202
    """The atoms of a backbone that have coordinates, as biotite's AtomArray; parameters as of `write_structure`."""
    from biotite.structure import AtomArray

    residue, atom = np.nonzero(np.isfinite(backbone_LAX).all(-1))
    atoms = AtomArray(len(residue))
    atoms.coord = backbone_LAX[residue, atom]
    atoms.chain_id[:] = "A"
    atoms.res_id[:] = residue + 1
    atoms.res_name[:] = np.array([THREE_LETTERS.get(letter, "UNK") for letter in sequence] or ["UNK"])[residue]
    atoms.atom_name[:] = np.array(BACKBONE_ATOMS)[atom]
    atoms.element[:] = np.array([name[0] for name in BACKBONE_ATOMS])[atom]
    confidence = np.zeros(len(sequence)) if plddt_L is None else np.asarray(plddt_L, dtype=float)
    atoms.set_annotation("b_factor", np.nan_to_num(confidence)[residue])
    atoms.set_annotation("occupancy", np.ones(len(residue)))
    return atoms


def _text(kind: str, atoms, entry: str) -> str:  # noqa: ANN001
    from biotite.structure.io import pdb, pdbx

    stream = io.StringIO()
    if kind == "pdb":
        file = pdb.PDBFile()
        file.set_structure(atoms)
        file.write(stream)
        return stream.getvalue() + "END\n"
    file = pdbx.CIFFile()
    _set_structure(file, atoms, entry)
    file.write(stream)
    return stream.getvalue()


def _set_structure(file, atoms, entry: str) -> None:  # noqa: ANN001
    from biotite.structure.io import pdbx

    if not len(atoms):
        raise DPLM2Error(f"{entry}: no atom has coordinates, nothing to write")
    pdbx.set_structure(file, atoms, data_block=entry)


def _write(path: Path, ending: str, atoms, entry: str) -> None:  # noqa: ANN001
    from biotite.structure.io import pdbx

    if ending in (".pdb", ".cif"):
        path.write_text(_text("pdb" if ending == ".pdb" else "mmcif", atoms, entry), encoding="utf-8")
        return
    file = pdbx.BinaryCIFFile()
    _set_structure(file, atoms, entry)
    file = pdbx.compress(file)
    with path.open("wb") as stream:
        if ending == ".bcif.gz":
            # No name or time in the header, so that equal chains give equal files.
            with gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
                file.write(packed)
        else:
            file.write(stream)
