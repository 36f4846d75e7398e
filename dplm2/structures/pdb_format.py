"""Reading PDB text: fixed columns, cut out of a matrix of characters all at once.

biotite's reader is held against this one in the tests. This one is here because it is several times quicker, and
because it can tell a broken line of a ligand or dummy atom (which costs nothing) from one of the protein (which costs
the file).
"""

import re

import numpy as np

from dplm2.settings.dataset import Reading
from dplm2.structures.atoms import Atoms, Entry, UnreadableError
from dplm2.structures.components import component

RECORD_WIDTH = 80
LAST_COORDINATE_COLUMN = 54
MONTHS = {
    m: i for i, m in enumerate(["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"], 1)
}
RESOLUTION = re.compile(rb"^REMARK   2 RESOLUTION\.\s+(\d+\.?\d*)\s+ANGSTROM", re.M)
FIRST_RELEASE = re.compile(rb"^REVDAT   1.{3}(\d\d)-([A-Z]{3})-(\d\d)", re.M)
ASSEMBLY = re.compile(rb"^REMARK 350 (?:AUTHOR|SOFTWARE) DETERMINED .*?: +(\S+)", re.M)
METHOD = re.compile(rb"^EXPDTA.{4}(.*)$", re.M)
PREDICTED = re.compile(
    rb"^(?:TITLE|REMARK|EXPDTA|HEADER).*(?:ALPHAFOLD|ESMFOLD|THEORETICAL MODEL|COLABFOLD|ROSETTAFOLD)", re.M
)
ATOM_RECORDS = (b"ATOM  ", b"HETATM")


def read_pdb(data: bytes, limits: Reading) -> Entry:
    """Read PDB text.

    Raises
    ------
    UnreadableError
        If it holds no atoms, a record of the protein is broken, or a limit is exceeded.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data.count(b"\nMODEL") > limits.max_models:
        raise UnreadableError(f"more than {limits.max_models} models")
    lines, first_line = _atom_lines(_first_model(data))
    if not lines:
        raise UnreadableError("a PDB file without ATOM records")
    if len(lines) > limits.max_atoms:
        raise UnreadableError(f"more than {limits.max_atoms} atoms")
    head = data[: data.find(lines[0])]
    resolution, method, assembly = RESOLUTION.search(head), METHOD.search(head), ASSEMBLY.search(head)
    return Entry(
        atoms=_parse(lines, first_line),
        format="PDB",
        polymers=_seqres(head),
        method=method[1].decode("ascii", "replace").strip().lower() or None if method else None,
        resolution=(float(resolution[1]) or None) if resolution else None,
        release_date=_date(FIRST_RELEASE.search(head)),
        predicted=PREDICTED.search(head) is not None,
        monomeric=assembly[1] == b"MONOMERIC" if assembly else None,
    )


def _first_model(data: bytes) -> bytes:
    """Up to the second MODEL record, or up to ENDMDL in files that mark models by it alone."""
    first = 0 if data.startswith(b"MODEL") else data.find(b"\nMODEL")
    end = data.find(b"\nMODEL" if first >= 0 else b"\nENDMDL", first + 1)
    return data if end < 0 else data[: end + 1]


def _atom_lines(data: bytes) -> tuple[list[bytes], list[int]]:
    lines = data.split(b"\n")
    places = [i for i, line in enumerate(lines) if line.startswith(ATOM_RECORDS)]
    return [lines[i] for i in places], places


def _parse(lines: list[bytes], places: list[int]) -> Atoms:
    matrix = np.array(lines, dtype=f"S{RECORD_WIDTH}").view("S1").reshape(len(lines), RECORD_WIDTH)
    hetero = matrix[:, 0] == b"H"
    residue = _text(matrix, 17, 20)
    coords, broken = _numbers(matrix, [(30, 38), (38, 46), (46, 54)])
    # numpy cannot tell a short line from one padded with blanks, and a cut number may still look like a number.
    broken |= np.fromiter((len(line) < LAST_COORDINATE_COLUMN for line in lines), bool, len(lines))
    number, bad_number = _residue_numbers(matrix)
    broken |= bad_number
    if broken.any():
        _refuse_broken_protein(lines, places, broken, hetero, residue)
    values, unknown = _numbers(matrix, [(54, 60), (60, 66)])
    # Columns that many programs leave blank or write something of their own into: taken as not given.
    occupancy = np.where(np.isnan(values[:, 0]), 1.0, values[:, 0])
    chain = _text(matrix, 21, 22)
    empty = np.full(len(lines), "", "U1")
    atoms = Atoms(
        author_chain=chain,
        label_chain=empty,
        entity=empty,
        number=number,
        insertion=_text(matrix, 26, 27),
        position=np.zeros(len(lines), np.int32),
        residue=residue,
        name=_text(matrix, 12, 16),
        altloc=_text(matrix, 16, 17),
        occupancy=occupancy.astype(np.float32),
        b_factor=values[:, 1].astype(np.float32),
        coords=coords.astype(np.float32),
        hetero=hetero,
    )
    return atoms.take(~broken) if broken.any() else atoms


def _refuse_broken_protein(
    lines: list[bytes], places: list[int], broken: np.ndarray, hetero: np.ndarray, residue: np.ndarray
) -> None:
    for i in np.flatnonzero(broken):
        if not hetero[i] or component(str(residue[i])).amino_acid:
            shown = lines[i][:66].decode("ascii", "replace").strip()
            raise UnreadableError(f"line {places[i] + 1} is broken: {shown!r}")


def _text(matrix: np.ndarray, start: int, stop: int) -> np.ndarray:
    column = np.ascontiguousarray(matrix[:, start:stop]).view(f"S{stop - start}").reshape(-1)
    codes, inverse = np.unique(column, return_inverse=True)
    names = np.array([code.decode("latin-1").strip(" \0") for code in codes.tolist()])
    return names[inverse]


def _numbers(matrix: np.ndarray, columns: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of fixed columns (atoms, columns) and a mask of atoms with one that is none (NaN there)."""
    values = np.empty((len(matrix), len(columns)))
    broken = np.zeros(len(matrix), bool)
    for i, (start, stop) in enumerate(columns):
        field = np.ascontiguousarray(matrix[:, start:stop]).view(f"S{stop - start}").reshape(-1)
        try:
            values[:, i] = field.astype(np.float64)
        except ValueError:
            for j, text in enumerate(field.tolist()):
                try:
                    values[j, i] = float(text)
                except ValueError:
                    values[j, i], broken[j] = np.nan, True
    return values, broken


def _residue_numbers(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    field = np.ascontiguousarray(matrix[:, 22:26]).view("S4").reshape(-1)
    broken = np.zeros(len(field), bool)
    try:
        return field.astype(np.int32), broken
    except ValueError:
        pass
    values = np.zeros(len(field), np.int32)
    for i, text in enumerate(field.tolist()):
        try:
            values[i] = _hybrid36(text.strip())
        except ValueError:
            broken[i] = True
    return values, broken


def _hybrid36(text: bytes) -> int:
    """A residue number of four characters; beyond 9999 they count on from A000 in base 36 (cctbx's hybrid-36)."""
    if len(text) == 4 and text[:1].isalpha():
        return int(text, 36) + 10**4 + (16 if text[:1].islower() else -10) * 36**3
    return int(text)


def _seqres(head: bytes) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    start = head.find(b"SEQRES")
    for line in head[start:].split(b"\n") if start >= 0 else []:
        if line.startswith(b"SEQRES"):
            found.setdefault(line[11:12].decode("latin-1").strip(), []).extend(line[19:70].decode("latin-1").split())
    return {chain: tuple(names) for chain, names in found.items()}


def _date(match: re.Match | None) -> str | None:
    if match is None or (month := MONTHS.get(match[2].decode())) is None:
        return None
    day, year = int(match[1]), int(match[3])
    # The Protein Data Bank opened in 1971: two-digit years from 70 on belong to that century.
    return f"{year + (1900 if year >= 70 else 2000)}-{month:02d}-{day:02d}"
