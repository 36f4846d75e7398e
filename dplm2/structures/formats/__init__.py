"""The formats of structure files, one module each: recognising the format, and reading it.

Formats are recognised by content, never by name; the first match reads the file. A new format is one module here, one
line of `FORMATS`, and a test.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dplm2.settings.dataset import Reading
from dplm2.structures.atoms import Entry
from dplm2.structures.formats import foldcomp, mmcif, pdb


@dataclass(frozen=True)
class Format:
    """A format of structure files.

    Attributes
    ----------
    name
        Name for messages.
    recognizes
        Whether content (decompressed, not empty) is of this format.
    read
        The atoms and header of such content; raises `UnreadableError`.
    binary
        Whether content may contain zero bytes; text is passed without byte-order mark, in lines of bounded length.
    """

    name: str
    recognizes: Callable[[bytes], bool]
    read: Callable[[bytes, Reading], Entry]
    binary: bool = False


FORMATS = (
    Format("Foldcomp", foldcomp.is_foldcomp, foldcomp.read_foldcomp, binary=True),
    Format("BinaryCIF", mmcif.is_binary_cif, mmcif.read_binary_cif, binary=True),
    Format("mmCIF", mmcif.is_mmcif, mmcif.read_mmcif),
    Format("PDB", pdb.is_pdb, pdb.read_pdb),
)
