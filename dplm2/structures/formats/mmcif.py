"""Reading mmCIF and BinaryCIF through biotite's file classes: only the columns that cleaning needs are decoded."""

import io
import re
from typing import Any

import msgpack
import numpy as np

from dplm2.settings.dataset import Reading
from dplm2.structures.atoms import Atoms, Entry, UnreadableError
from dplm2.structures.components import THREE_LETTERS, component
from dplm2.structures.formats.predictions import by_method, names_program
from dplm2.structures.formats.text import first_line

# No real file exceeds this: a string or run-length encoding can claim any size in a few bytes.
VALUES_PER_ATOM = 4
# In an entity's sequence a residue is a letter, or a name in parentheses: "MK(MSE)L".
ONE_RESIDUE = re.compile(r"\(([^)\s]+)\)|([A-Za-z])")
# Categories of ModelCIF, which only predicted models have.
PREDICTION_PREFIX = "ma_"
# The items that are read, spelled as in the dictionary: CIF ignores case in keywords and names, biotite does not.
CATEGORIES = ("atom_site", "database_PDB_rev")
ITEMS = (
    "group_PDB", "Cartn_x", "Cartn_y", "Cartn_z", "B_iso_or_equiv", "pdbx_PDB_ins_code", "pdbx_PDB_model_num",
    "label_asym_id",
)  # fmt: skip
SPELLING = {name.lower(): name for name in (*CATEGORIES, *ITEMS)}
KEYWORDS_AND_NAMES = ("data_", "loop_", "_atom_site.", "_entity_poly.", ".Cartn_x", ".group_PDB")
KEYWORD = re.compile(r"^(?:data_|loop_|save_)", re.M | re.I)
NAME = re.compile(r"^_([^\s.]+)\.(\S+)", re.M)
NUCLEIC_OR_SUGAR = re.compile("nucleotide|nucleic|saccharide|dna|rna")


def is_mmcif(data: bytes) -> bool:
    """Whether content is mmCIF text, which starts with a data block."""
    return first_line(data)[:5].lower() == b"data_"


def is_binary_cif(data: bytes) -> bool:
    """Whether content is BinaryCIF: a MessagePack map with data blocks."""
    return 0x80 <= data[0] <= 0x8F and b"dataBlocks" in data


def read_mmcif(data: bytes, limits: Reading) -> Entry:
    """Read mmCIF text.

    Raises
    ------
    UnreadableError
        If it has no atoms, is not valid mmCIF, or exceeds a limit.
    """
    from biotite.structure.io.pdbx import CIFFile

    text = _spelled(data.decode("utf-8", "replace"))
    longest = max(map(len, text.split("\n")), default=0)
    if longest > limits.max_line_length:
        raise UnreadableError(f"a line of {longest} characters; the maximum is {limits.max_line_length}")
    return _read_blocks(CIFFile.read(io.StringIO(text)), "mmCIF", limits)


def _spelled(text: str) -> str:
    """Convert keywords and names to the dictionary's case."""
    lower = text.lower()
    if all(text.count(word) == lower.count(word.lower()) for word in KEYWORDS_AND_NAMES):
        return text
    text = KEYWORD.sub(lambda match: match[0].lower(), text)
    return NAME.sub(lambda match: f"_{_spelling(match[1])}.{_spelling(match[2])}", text)


def _spelling(name: str) -> str:
    return SPELLING.get(name.lower(), name.lower())


def read_binary_cif(data: bytes, limits: Reading) -> Entry:
    """Read BinaryCIF.

    Raises
    ------
    UnreadableError
        If it has no atoms, is not valid BinaryCIF, or exceeds a limit.
    """
    from biotite.structure.io.pdbx import BinaryCIFFile

    content = msgpack.unpackb(data, use_list=True, raw=False, strict_map_key=False)
    _refuse_claims(content, limits)
    return _read_blocks(BinaryCIFFile.deserialize(content), "BinaryCIF", limits)


def _refuse_claims(content: Any, limits: Reading) -> None:
    """Reject an encoding that claims more values than a file of allowed size can contain, before memory runs out."""
    most = limits.max_atoms * VALUES_PER_ATOM
    waiting = [content] if type(content) in (dict, list) else []
    while waiting:
        node = waiting.pop()
        if type(node) is list:
            waiting.extend(item for item in node if type(item) in (dict, list))
            continue
        for key in ("srcSize", "rowCount"):
            if key in node and not (type(node[key]) is int and 0 <= node[key] <= most):
                raise UnreadableError(f"a column claims {node[key]!r} values; the maximum is {most}")
        waiting.extend(value for value in node.values() if type(value) in (dict, list))


def _read_blocks(file: Any, kind: str, limits: Reading) -> Entry:
    block = next((file[name] for name in file if "atom_site" in file[name]), None)
    if block is None:
        raise UnreadableError(f"{'an' if kind[0] == 'm' else 'a'} {kind} file without atoms (no category atom_site)")
    atoms = _atoms(block["atom_site"], limits)
    polymers = _polymers(block)
    peptides = _peptides(block, atoms, polymers)
    if peptides is not None and not ((atoms.position > 0) & np.isin(atoms.entity, list(peptides))).any():
        # Some programs write entities but do not assign atoms to them.
        peptides = None if peptides else peptides
    return Entry(
        atoms=atoms,
        format=kind,
        polymers=polymers,
        peptides=peptides,
        method=(_first(block, "exptl", "method") or "").lower() or None,
        resolution=_resolution(block),
        release_date=_release_date(block),
        predicted=_predicted(block),
        monomeric=_monomeric(block),
    )


def _atoms(site: Any, limits: Reading) -> Atoms:
    count = site.row_count
    if count > limits.max_atoms:
        raise UnreadableError(f"more than {limits.max_atoms} atoms")
    models = _integers(site, "pdbx_PDB_model_num", default=1)
    if len(models) and len(np.unique(models)) > limits.max_models:
        raise UnreadableError(f"more than {limits.max_models} models")
    first = models == models[0]
    chosen = slice(None) if first.all() else first
    label_chain = _strings(site, "label_asym_id", "auth_asym_id")
    columns = {
        "author_chain": _strings(site, "auth_asym_id", "label_asym_id"),
        "label_chain": label_chain,
        "entity": _strings(site, "label_entity_id"),
        "number": _integers(site, "auth_seq_id", "label_seq_id"),
        "insertion": _strings(site, "pdbx_PDB_ins_code"),
        "position": _integers(site, "label_seq_id"),
        "residue": _strings(site, "label_comp_id", "auth_comp_id"),
        "name": _strings(site, "label_atom_id", "auth_atom_id"),
        "altloc": _strings(site, "label_alt_id"),
        "occupancy": _floats(site, "occupancy", default=1.0),
        "b_factor": _floats(site, "B_iso_or_equiv", default=np.nan),
        "coords": np.stack([_floats(site, f"Cartn_{axis}") for axis in "xyz"], axis=-1),
        "hetero": _strings(site, "group_PDB") == "HETATM",
        "segment": label_chain if "label_asym_id" in site else np.full(count, "", "U1"),
        "section": np.zeros(count, np.int32),
    }
    return Atoms(**{name: column[chosen] for name, column in columns.items()})


def _column(category: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if name in category and (category[name].mask is None or (category[name].mask.array == 0).any()):
            return category[name]
    return None


def _strings(category: Any, *names: str) -> np.ndarray:
    column = _column(category, names)
    if column is None:
        return np.full(category.row_count, "", "U1")
    values = column.as_array(str, masked_value="")
    # Some programs write '.' and '?' instead of a mask.
    if values.dtype.itemsize == 4:
        values = np.where((values == ".") | (values == "?"), "", values)
    return values


def _integers(category: Any, *names: str, default: int = 0) -> np.ndarray:
    column = _column(category, names)
    if column is None:
        return np.full(category.row_count, default, np.int32)
    return column.as_array(np.int32, masked_value=default)


def _floats(category: Any, name: str, default: float | None = None) -> np.ndarray:
    column = _column(category, (name,))
    if column is None:
        if default is None:
            raise UnreadableError(f"atoms without coordinates (no {name})")
        return np.full(category.row_count, default, np.float32)
    return column.as_array(np.float32, masked_value=np.nan if default is None else default)


def _first(block: Any, category: str, name: str) -> str | None:
    column = _column(block[category], (name,)) if category in block else None
    value = column.as_array(str, masked_value="")[0] if column is not None else ""
    return str(value) if value not in ("", "?", ".") else None


def _peptides(block: Any, atoms: Atoms, polymers: dict[str, tuple[str, ...]]) -> frozenset[str] | None:
    """The entities that are polypeptides; None if the file gives no polymer types.

    An uninformative type (``?``, ``other``) is resolved by the residues.
    """
    if "entity_poly" not in block or "type" not in block["entity_poly"]:
        return None
    table = block["entity_poly"]
    kinds = zip(_strings(table, "entity_id").tolist(), _strings(table, "type").tolist(), strict=True)
    found = set()
    for entity, kind in kinds:
        text = kind.lower()
        declared = "polypeptide" in text or "protein" in text
        if declared or not NUCLEIC_OR_SUGAR.search(text) and _mostly_amino_acids(entity, atoms, polymers):
            found.add(entity)
    return frozenset(found)


def _mostly_amino_acids(entity: str, atoms: Atoms, polymers: dict[str, tuple[str, ...]]) -> bool:
    names = polymers.get(entity) or atoms.residue[(atoms.entity == entity) & (atoms.name == "CA")].tolist()
    return 2 * sum(component(name).amino_acid for name in names) > len(names)


def _polymers(block: Any) -> dict[str, tuple[str, ...]]:
    """Residue names of the sequence of each entity."""
    polymers: dict[str, list[str]] = {}
    if "entity_poly_seq" in block:
        table = block["entity_poly_seq"]
        places = _integers(table, "num").tolist()
        rows = zip(_strings(table, "entity_id").tolist(), places, _strings(table, "mon_id").tolist(), strict=True)
        for entity, place, name in rows:
            names = polymers.setdefault(entity, [])
            # A second row with the same number is microheterogeneity: the first is used.
            if place == len(names) + 1:
                names.append(name)
    elif "entity_poly" in block:
        table = block["entity_poly"]
        texts = _strings(table, "pdbx_seq_one_letter_code").tolist()
        for entity, text in zip(_strings(table, "entity_id").tolist(), texts, strict=True):
            found = ONE_RESIDUE.findall(text)
            polymers[entity] = [longer or THREE_LETTERS.get(letter, "UNK") for longer, letter in found]
    return {entity: tuple(names) for entity, names in polymers.items()}


def _resolution(block: Any) -> float | None:
    for category, name in (
        ("refine", "ls_d_res_high"),
        ("em_3d_reconstruction", "resolution"),
        ("reflns", "d_resolution_high"),
    ):
        text = _first(block, category, name)
        try:
            value = float(text or "")
        except ValueError:
            continue
        if np.isfinite(value) and value > 0:
            return value
    return None


def _release_date(block: Any) -> str | None:
    for category, name in (("pdbx_audit_revision_history", "revision_date"), ("database_PDB_rev", "date")):
        if category in block and (column := _column(block[category], (name,))) is not None:
            dates = [str(date)[:10] for date in column.as_array(str, masked_value="") if len(str(date)) >= 10]
            if dates:
                return min(dates)
    return None


def _predicted(block: Any) -> bool:
    """Whether the file is a prediction, by its method, else by its categories and its title."""
    method = _first(block, "exptl", "method")
    if method:
        return by_method(method)
    if any(category.startswith(PREDICTION_PREFIX) for category in block):
        return True
    named = [_first(block, *where) or "" for where in (("struct", "title"), ("software", "name"))]
    return (_first(block, "entry", "id") or "").upper().startswith("AF-") or any(map(names_program, named))


def _monomeric(block: Any) -> bool | None:
    details = _first(block, "pdbx_struct_assembly", "oligomeric_details")
    return details.lower() == "monomeric" if details else None
