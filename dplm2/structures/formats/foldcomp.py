"""Reading Foldcomp content (Kim, Mirdita and Steinegger, Bioinformatics 39 (2023) btad153) with its own package."""

from dataclasses import replace

from dplm2.settings.dataset import Reading
from dplm2.structures.atoms import Entry, UnreadableError
from dplm2.structures.formats.pdb import read_pdb

MAGIC = b"FCMP"


def is_foldcomp(data: bytes) -> bool:
    """Whether content is a Foldcomp record."""
    return data.startswith(MAGIC)


def read_foldcomp(data: bytes, limits: Reading) -> Entry:
    """Read a Foldcomp record; all such structures are predictions.

    Raises
    ------
    UnreadableError
        If the package ``foldcomp`` is not installed, or its output cannot be read.
    """
    try:
        import foldcomp
    except ImportError as error:
        raise UnreadableError(
            "Foldcomp content; install the package 'foldcomp' (pip install 'dplm2[foldcomp]')"
        ) from error
    _, text = foldcomp.decompress(data)
    return replace(read_pdb(text.encode("ascii"), limits), predicted=True)
