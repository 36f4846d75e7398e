"""Reading PDB text: fixed columns, sliced from a character matrix.

The tests compare this reader with biotite's. It is several times faster, and it distinguishes an invalid line of a
ligand or dummy atom (which is ignored) from one of the protein (which rejects the file).
"""

import re

import numpy as np

from dplm2.settings.dataset import Reading
from dplm2.structures.atoms import Atoms, Entry, UnreadableError
from dplm2.structures.components import FORCE_FIELD_NAMES, STANDARD, TERMINAL_NAMES, component
from dplm2.structures.formats.predictions import by_method, by_pdb_header
from dplm2.structures.formats.text import first_line

RECORD_WIDTH = 81
SEGMENT = (72, 76)
LAST_RESIDUE_NAME_COLUMN, LAST_COORDINATE_COLUMN = 20, 54
COORDINATE_WIDTH = 8
RECORDS = (
    b"ATOM ", b"HETATM", b"HEADER", b"TITLE ", b"COMPND", b"SOURCE", b"KEYWDS", b"EXPDTA", b"AUTHOR", b"REMARK",
    b"REVDAT", b"SEQRES", b"CRYST1", b"MODEL", b"DBREF", b"TER", b"END", b"OBSLTE", b"NUMMDL", b"MDLTYP", b"SPLIT ",
    b"CAVEAT", b"JRNL  ", b"HELIX ", b"SHEET ", b"SSBOND", b"LINK  ", b"MODRES", b"ORIGX1", b"SCALE1", b"MTRIX1",
    b"CONECT", b"PARENT", b"USER  ",
)  # fmt: skip
MONTHS = {
    m: i for i, m in enumerate(["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"], 1)
}
RESOLUTION = re.compile(rb"^REMARK   2 RESOLUTION\.\s+(\d+\.?\d*)\s+ANGSTROM", re.M)
FIRST_RELEASE = re.compile(rb"^REVDAT   1.{3}(\d\d)-([A-Z]{3})-(\d\d)", re.M)
ASSEMBLY = re.compile(rb"^REMARK 350 (?:AUTHOR|SOFTWARE) DETERMINED .*?: +(\S+)", re.M)
METHOD = re.compile(rb"^EXPDTA.{4}(.*)$", re.M)
# Serial numbers of six digits start in column 6, directly after the blank ("ATOM 100000").
ATOM_RECORDS = (b"ATOM ", b"HETATM")
MOLECULE_ENDS = (b"TER", b"END")
LONG_NAMES = FORCE_FIELD_NAMES.keys() | STANDARD.keys()
# Columns (from 0) of the tens digit of a serial number shifted right by one, and of the decimal points of x, y and z.
OVERFLOWN_SERIAL, COORDINATE_POINTS = 11, (34, 42, 50)
# AlphaFold's writer, also used by ColabFold and others, puts the model number into a different column.
ALPHAFOLD_MODEL = re.compile(rb"\s*MODEL {5}1 *\r?\n")


def is_pdb(data: bytes) -> bool:
    """Whether content is PDB text: its first line is a PDB record, or atom lines follow."""
    return first_line(data).startswith(RECORDS) or b"\nATOM " in data or b"\nHETATM" in data


def read_pdb(data: bytes, limits: Reading) -> Entry:
    """Read PDB text.

    Raises
    ------
    UnreadableError
        If it has no atoms, a record of the protein is invalid, or a limit is exceeded.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data.count(b"\nMODEL") > limits.max_models:
        raise UnreadableError(f"more than {limits.max_models} models")
    lines, places, sections = _atom_lines(_first_model(data))
    if not lines:
        raise UnreadableError("a PDB file without ATOM records")
    if len(lines) > limits.max_atoms:
        raise UnreadableError(f"more than {limits.max_atoms} atoms")
    head = data[: data.find(lines[0])]
    atoms = _parse(lines, places, sections)
    resolution, method, assembly = RESOLUTION.search(head), METHOD.search(head), ASSEMBLY.search(head)
    return Entry(
        atoms=atoms,
        format="PDB",
        polymers=_seqres(head),
        method=method[1].decode("ascii", "replace").strip().lower() or None if method else None,
        resolution=(float(resolution[1]) or None) if resolution else None,
        release_date=_date(FIRST_RELEASE.search(head)),
        predicted=_predicted(head, method, atoms),
        monomeric=assembly[1] == b"MONOMERIC" if assembly else None,
    )


def _predicted(head: bytes, method: re.Match | None, atoms: Atoms) -> bool:
    """Whether the file is a prediction, by its header or a feature of AlphaFold's writer."""
    if method is not None and method[1].strip():
        return by_method(method[1].decode("latin-1"))
    if by_pdb_header(head.decode("latin-1")):
        return True
    return ALPHAFOLD_MODEL.fullmatch(head) is not None and _one_confidence_a_residue(atoms)


def _one_confidence_a_residue(atoms: Atoms) -> bool:
    """Whether B factors could be pLDDT: from 0 to 100, the same for all atoms of a residue."""
    changed = atoms.b_factor[1:] != atoms.b_factor[:-1]
    between = (atoms.number[1:] != atoms.number[:-1]) | (atoms.author_chain[1:] != atoms.author_chain[:-1])
    largest = atoms.b_factor.max()
    return bool((atoms.b_factor >= 0).all() and 0 < largest <= 100 and not (changed & ~between).any())


def _first_model(data: bytes) -> bytes:
    """The text up to the second MODEL record, or up to ENDMDL in files without MODEL records."""
    first = 0 if data.startswith(b"MODEL") else data.find(b"\nMODEL")
    end = data.find(b"\nMODEL" if first >= 0 else b"\nENDMDL", first + 1)
    return data if end < 0 else data[: end + 1]


def _atom_lines(data: bytes) -> tuple[list[bytes], list[int], np.ndarray]:
    """Atom lines, the line number of each, and the number of TER and END records before each."""
    lines = data.split(b"\n")
    places = [i for i, line in enumerate(lines) if line.startswith(ATOM_RECORDS)]
    ends = []
    if places and b"\nTER" in data or b"\nEND" in data:
        ends = [i for i, line in enumerate(lines[: places[-1]]) if line.startswith(MOLECULE_ENDS)] if places else []
    return [lines[i] for i in places], places, np.searchsorted(ends, places).astype(np.int32)


def _parse(lines: list[bytes], places: list[int], sections: np.ndarray) -> Atoms:
    matrix = _matrix(lines)
    hetero = matrix[:, 0] == b"H"
    residue, chain = _residues_and_chains(matrix)
    coords, broken = _numbers(matrix, [(30, 38), (38, 46), (46, 54)])
    # numpy cannot distinguish a short line from a blank-padded one, and a truncated number may still look like a
    # number.
    broken |= np.fromiter(map(len, lines), np.int64, len(lines)) < LAST_COORDINATE_COLUMN
    number, bad_number = _residue_numbers(matrix)
    broken |= bad_number
    if broken.any():
        _refuse_broken_protein(lines, places, broken, hetero, residue)
    values, _ = _numbers(matrix, [(54, 60), (60, 66)])
    # Columns that many programs leave blank or use for other purposes: treated as missing.
    occupancy = np.where(np.isnan(values[:, 0]), 1.0, values[:, 0])
    empty = np.full(len(lines), "", "U1")
    insertion = _text(matrix, 26, 27)
    atoms = Atoms(
        author_chain=chain,
        label_chain=empty,
        entity=empty,
        number=number,
        insertion=insertion,
        position=np.zeros(len(lines), np.int32),
        residue=residue,
        name=_text(matrix, 12, 16),
        altloc=_text(matrix, 16, 17),
        occupancy=occupancy.astype(np.float32),
        b_factor=values[:, 1].astype(np.float32),
        coords=coords.astype(np.float32),
        hetero=hetero,
        segment=_segments(matrix, number, insertion, residue, chain),
        section=sections,
    )
    return atoms.take(~broken) if broken.any() else atoms


def _matrix(lines: list[bytes]) -> np.ndarray:
    """The lines as characters (atoms, columns), corrected for shifts by overlong serial numbers."""
    matrix = np.array(lines, dtype=f"S{RECORD_WIDTH}").view("S1").reshape(len(lines), RECORD_WIDTH)
    if _filled(matrix, OVERFLOWN_SERIAL, OVERFLOWN_SERIAL + 1):
        points = np.array(COORDINATE_POINTS)
        shifted = (matrix[:, points + 1] == b".").all(1) & (matrix[:, points] != b".").any(1)
        matrix[shifted, OVERFLOWN_SERIAL:-1] = matrix[shifted, OVERFLOWN_SERIAL + 1 :]
    return matrix


def _residues_and_chains(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residue names and chain ids, whose columns share column 21.

    Force fields use residue names of four letters (``NMET``, ``TIP3``), ChimeraX chain ids of two. Names of amino acids
    resolve the ambiguity: ``CGLU`` is one, and so is ``MET`` before a two-letter chain id.
    """
    if not _filled(matrix, 20, 21):
        return _text(matrix, 17, 20), _text(matrix, 21, 22)
    columns = np.ascontiguousarray(matrix[:, 17:22]).view("S5").reshape(-1)
    codes, inverse = np.unique(columns, return_inverse=True)
    texts = [code.decode("latin-1").replace("\0", " ").ljust(5) for code in codes.tolist()]
    two_letters = any(text[:3].upper() in STANDARD and text[:4].strip().upper() not in LONG_NAMES for text in texts)
    pairs = [(text[:cut], text[cut:]) for text in texts for cut in [_length_of_name(text, two_letters)]]
    names, chains = (np.array([text.strip() for text in column]) for column in zip(*pairs, strict=True))
    return names[inverse], chains[inverse]


def _length_of_name(text: str, two_letters: bool) -> int:
    """Characters of a residue's name in columns 18-22."""
    name = text[:4].strip().upper()
    right_aligned = text[0] == " " and name in STANDARD
    return 4 if right_aligned or name in TERMINAL_NAMES or not (two_letters or text[3] == " ") else 3


def _filled(matrix: np.ndarray, start: int, stop: int) -> bool:
    """Whether any character in the columns is neither blank nor missing."""
    return bool((matrix.view(np.uint8)[:, start:stop] > ord(" ")).any())


def _segments(
    matrix: np.ndarray, number: np.ndarray, insertion: np.ndarray, residue: np.ndarray, chain: np.ndarray
) -> np.ndarray:
    """Segment ids (columns 73-76), empty if they are all equal or their columns contain something else.

    Partial charges and atom types change within residues; segment ids change between residues, or at most once within
    an apparent residue (two molecules whose residues alternate).
    """
    empty = np.full(len(matrix), "", "U1")
    columns = matrix.view(np.uint8)[:, SEGMENT[0] : SEGMENT[1]]
    if not (columns[1:] != columns[:-1]).any():
        return empty
    segment = _text(matrix, *SEGMENT)
    changed = segment[1:] != segment[:-1]
    between = np.zeros(len(changed), bool)
    for column in (number, insertion, residue, chain):
        between |= column[1:] != column[:-1]
    if (changed & ~between).sum() > between.sum():
        return empty
    # Atoms added by another program without a segment id get that of their residue.
    residue_of = np.append(0, np.cumsum(between))
    filled, first = np.unique(residue_of[segment != ""], return_index=True)
    own = np.full(residue_of[-1] + 1, "", segment.dtype)
    own[filled] = segment[segment != ""][first]
    return np.where(segment == "", own[residue_of], segment)


def _refuse_broken_protein(
    lines: list[bytes], places: list[int], broken: np.ndarray, hetero: np.ndarray, residue: np.ndarray
) -> None:
    """Reject the file for an invalid record of the protein, or one truncated before its residue name."""
    for i in np.flatnonzero(broken):
        cut_short = not hetero[i] and len(lines[i].rstrip()) < LAST_RESIDUE_NAME_COLUMN
        if cut_short or component(str(residue[i])).amino_acid:
            shown = lines[i][:66].decode("ascii", "replace").strip()
            raise UnreadableError(f"line {places[i] + 1} is invalid: {shown!r}")


def _text(matrix: np.ndarray, start: int, stop: int) -> np.ndarray:
    column = np.ascontiguousarray(matrix[:, start:stop]).view(f"S{stop - start}").reshape(-1)
    codes, inverse = np.unique(column, return_inverse=True)
    names = np.array([code.decode("latin-1").strip(" \0") for code in codes.tolist()])
    return names[inverse]


def _numbers(matrix: np.ndarray, columns: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in fixed columns (atoms, columns), and a mask of atoms with an invalid one (NaN)."""
    values = np.empty((len(matrix), len(columns)))
    broken = np.zeros(len(matrix), bool)
    for i, (start, stop) in enumerate(columns):
        if (plain := _plain_numbers(matrix.view(np.uint8)[:, start:stop])) is not None:
            values[:, i] = plain
            continue
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


def _plain_numbers(characters: np.ndarray) -> np.ndarray | None:
    """Numbers in the format's notation (``%8.3f``, ``%6.2f``), or None if any is written differently.

    Digits are summed for all atoms at once, several times faster than parsing single numbers; the values equal those of
    ``float``, since integers and powers of ten are exact.
    """
    width = characters.shape[1]
    decimals = 3 if width == COORDINATE_WIDTH else 2
    point = width - decimals - 1
    columns = np.ascontiguousarray(characters.T)
    digits = columns - np.uint8(ord("0"))
    is_digit = digits <= 9
    minus = columns[:point] == ord("-")
    before = is_digit[:point]
    sound = (columns[point] == ord(".")).all() and is_digit[point + 1 :].all() and before[-1].all()
    # Blanks, an optional sign, then digits.
    sound = sound and (before | minus | (columns[:point] == ord(" "))).all()
    if not sound or (~before[1:] & (before[:-1] | minus[:-1])).any():
        return None
    total = np.zeros(len(characters), np.int32)
    for i in range(width):
        if i != point:
            total = 10 * total + np.where(is_digit[i], digits[i], 0)
    return np.where(minus.any(0), -total, total) / 10.0**decimals


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
            values[i] = _long_number(text.strip())
        except ValueError:
            broken[i] = True
    return values, broken


def _long_number(text: bytes) -> int:
    """A residue number of four characters beyond 9999.

    Either hybrid-36 (cctbx: base 36 from A000) or hexadecimal (VMD), recognised by a digit before the letters.
    """
    if len(text) == 4 and text[:1].isalpha():
        return int(text, 36) + 10**4 + (16 if text[:1].islower() else -10) * 36**3
    return int(text, 16 if len(text) == 4 and not text.lstrip(b"+-").isdigit() else 10)


def _seqres(head: bytes) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    start = head.find(b"SEQRES")
    for line in head[start:].split(b"\n") if start >= 0 else []:
        if line.startswith(b"SEQRES"):
            found.setdefault(line[10:12].decode("latin-1").strip(), []).extend(line[19:70].decode("latin-1").split())
    return {chain: tuple(names) for chain, names in found.items()}


def _date(match: re.Match | None) -> str | None:
    if match is None or (month := MONTHS.get(match[2].decode())) is None:
        return None
    day, year = int(match[1]), int(match[3])
    # The Protein Data Bank opened in 1971: two-digit years from 70 on are of the 20th century.
    return f"{year + (1900 if year >= 70 else 2000)}-{month:02d}-{day:02d}"
