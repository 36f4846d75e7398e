"""Lists of downloads (PDB ids, UniProt accessions, addresses), divided into shards.

Imported by the Snakefile at every start, so this module uses only the standard library.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.text import read_lines, shown
from dplm2.structures.manifest import shard_of, write_if_changed
from dplm2.structures.sites import names_site, site_of

PDB_ADDRESS = "https://models.rcsb.org/{id}.bcif.gz"
ALPHAFOLD_ADDRESS = "https://alphafold.ebi.ac.uk/api/prediction/{id}"
PDB_ID = re.compile(r"((?:pdb_[0-9]{4})?[0-9][a-z0-9]{3})(?:[_:][a-z0-9]{1,4})?", re.I)
# https://www.uniprot.org/help/accession_numbers
ACCESSION = r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}"
UNIPROT = re.compile(rf"(?:AF-)?({ACCESSION})(?:-F1(?:-model_v([0-9]{{1,3}}))?)?(?:\.(?:bcif|cif|pdb)(?:\.gz)?)?", re.I)
UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
LONGEST_NAME = 200


@dataclass(frozen=True)
class FetchSource:
    """Addresses of structures, and timeouts and retries of downloads."""

    pdb_address: str = PDB_ADDRESS
    alphafold_address: str = ALPHAFOLD_ADDRESS
    concurrency: int = 8
    tries: int = 5
    first_wait: float = 1.0
    timeout: float = 30.0
    max_megabytes: int = 1024


@dataclass(frozen=True)
class FetchTarget:
    """One download: its entry in the list, its address, and its file name (the extension may be added later).

    Attributes
    ----------
    name, address, file
        See above.
    indirect
        Whether the address lists the addresses of files, as AlphaFold DB's does.
    version
        The version of AlphaFold DB's model; None: the current one.
    """

    name: str
    address: str
    file: str
    indirect: bool = False
    version: int | None = None


def read_targets(
    lists: str | os.PathLike | Sequence[str | os.PathLike], source: FetchSource, may_be_empty: bool = False
) -> list[FetchTarget]:
    """The targets of lists: PDB ids, UniProt accessions or addresses, one per line; ``#`` starts a comment.

    A PDB id may be followed by a chain (``1ubq_A``): the entry is downloaded, once for all of its chains. The name of a
    model (``AF-P12345-F1-model_v4``) selects its version.

    An address without a path is not a target but a site; see `dplm2.structures.sites`.

    Addresses with the same file name get part of the address's hash added to it, so that file names do not depend on
    the order of the list.

    Raises
    ------
    DPLM2Error
        If a list cannot be read, or is empty (unless it ``may_be_empty``).
    ConfigError
        If a line is not one of the three.
    """
    lists = [lists] if isinstance(lists, str | os.PathLike) else lists
    targets = {(target.address, target.version): target for path in lists for target in _read(path, source)}
    if not targets and not may_be_empty:
        raise DPLM2Error(f"{', '.join(map(str, lists))}: an empty list")
    times = Counter(target.file.lower() for target in targets.values())
    return [_told_apart(target) if times[target.file.lower()] > 1 else target for target in targets.values()]


def read_sites(lists: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """The sites to which lists allow redirects: their lines that are an address without a path."""
    lists = [lists] if isinstance(lists, str | os.PathLike) else lists
    return sorted({text for path in lists for _, text in _entries(path) if names_site(text)})


def _sites_of_shards(lists: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """The sites that every shard's list must contain, so that redirects do not depend on the shard.

    Those that the lists allow and, if their addresses are on several sites, all of these.
    """
    paths = [lists] if isinstance(lists, str | os.PathLike) else lists
    parts = (urlsplit(text) for path in paths for _, text in _entries(path) if site_of(text) is not None)
    own = sorted({f"{part.scheme}://{part.netloc}" for part in parts})
    return own if len(own) > 1 else read_sites(lists)


def _entries(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """The lines of a list without comments, with their numbers."""
    for number, line in enumerate(read_lines(path), 1):
        text = line.split(" #")[0].strip()
        if text and not text.startswith("#"):
            yield number, text


def _read(path: str | os.PathLike, source: FetchSource) -> Iterator[FetchTarget]:
    for number, text in _entries(path):
        if names_site(text):
            continue
        target = target_of(text, source)
        if target is None:
            raise ConfigError(f"{path}, line {number}: {shown(text)} is not a PDB id, UniProt accession or address")
        yield target


def target_of(text: str, source: FetchSource) -> FetchTarget | None:
    """The download that an entry of a list names; None if it names none."""
    if site_of(text) is not None:
        # The name is taken from the address and made safe: it never leads outside the folder.
        name = UNSAFE.sub("_", unquote(urlsplit(text).path).rsplit("/", 1)[-1]).lstrip(".") or "download"
        return FetchTarget(text, text, name[-LONGEST_NAME:])
    if entry := PDB_ID.fullmatch(text):
        name = entry[1].lower()
        address = source.pdb_address.format(id=name)
        return FetchTarget(name, address, name + endings(address))
    if model := UNIPROT.fullmatch(text):
        name, version = model[1].upper(), model[2]
        file = f"AF-{name}-F1" + (f"-model_v{version}" if version else "")
        address = source.alphafold_address.format(id=name)
        return FetchTarget(file if version else name, address, file, True, int(version) if version else None)
    return None


def _told_apart(target: FetchTarget) -> FetchTarget:
    stem, dot, rest = target.file.partition(".")
    digest = hashlib.sha256(target.address.encode()).hexdigest()[:6]
    return replace(target, file=f"{stem}-{digest}{dot}{rest}")


def endings(address: str) -> str:
    """The extensions of an address's file, such as ``.bcif.gz``."""
    match = re.search(r"(\.[A-Za-z]+(?:\.gz)?)$", urlsplit(address).path)
    return match[1] if match else ""


@dataclass
class TargetLists:
    """Lists of downloads, one per shard; nothing is written before `write`.

    Attributes
    ----------
    folder
        Folder of ``list-00000.txt`` ...
    texts
        The text of each list.
    """

    folder: Path
    texts: list[bytes]

    def path(self, shard: int) -> Path:
        """Path of a shard's list."""
        return self.folder / f"list-{shard:05d}.txt"

    def identity(self, shard: int) -> str:
        """Identity of the content of a shard's list."""
        return hashlib.sha256(self.texts[shard]).hexdigest()[:16]

    def write(self) -> list[Path]:
        """Write the lists whose content changed, and remove those of shards that no longer exist."""
        paths = [self.path(shard) for shard in range(len(self.texts))]
        for path, text in zip(paths, self.texts, strict=True):
            write_if_changed(path, text)
        for stale in set(self.folder.glob("list-*.txt")) - set(paths):
            stale.unlink()
        return paths


def list_repository(repository: str, folder: str | os.PathLike, shards: int) -> TargetLists:
    """For each shard, the dataset repository on the hub and which of its tables it reads."""
    return TargetLists(Path(folder), [f"{repository} {shard} {shards}\n".encode() for shard in range(shards)])


def list_targets(
    lists: str | Sequence[str], folder: str | os.PathLike, shards: int, source: FetchSource
) -> TargetLists:
    """Divide lists of downloads into one per shard.

    The shard of an entry follows from its file name alone, so that a new entry changes one shard, and before any
    download.

    Parameters
    ----------
    lists
        See `read_targets`, whose errors are raised.
    folder
        Folder of the shards' lists.
    shards
        Number of parts.
    source
        Addresses for PDB ids and accessions.
    """
    names: list[list[str]] = [[] for _ in range(shards)]
    for target in read_targets(lists, source):
        # Without the hash that makes equal names unique: these must be in one shard, where all of them are seen.
        names[shard_of(target_of(target.name, source).file, shards)].append(target.name)
    sites = _sites_of_shards(lists)
    lines = ([*(sites if part else []), *sorted(part)] for part in names)
    return TargetLists(Path(folder), ["".join(f"{line}\n" for line in part).encode() for part in lines])
