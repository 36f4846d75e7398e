"""Downloading structures: many at once, again after a failure, and only what is whole.

biotite's database clients fetch one file after another, without time limits, retries or a check of what came; here each
file is checked by reading it, and written under its name only then.
"""

import concurrent.futures
import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from tqdm import tqdm

from dplm2.artifacts import atomic_path, sha256_of_file, write_text
from dplm2.errors import ConfigError, DPLM2Error
from dplm2.structures.atoms import UnreadableError
from dplm2.structures.reading import MEBIBYTE, default_reading, is_archive, parse
from dplm2.structures.rejects import Reject
from dplm2.structures.store import REJECTED, REJECTED_FILE, write_table

PDB_ADDRESS = "https://models.rcsb.org/{id}.bcif.gz"
ALPHAFOLD_ADDRESS = "https://alphafold.ebi.ac.uk/api/prediction/{id}"
# AlphaFold DB's answer names the current version's files; the first of these that it has is taken.
ALPHAFOLD_KEYS = ("bcifUrl", "cifUrl", "pdbUrl")
PDB_ID = re.compile(r"(?:pdb_[0-9]{4})?[0-9][a-z0-9]{3}", re.I)
# https://www.uniprot.org/help/accession_numbers
UNIPROT = re.compile(r"(?:AF-)?([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?:-F1)?", re.I)
WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
LIST_FILE = "downloads.tsv"
LONGEST_WAIT = 60.0
PIECE = 1 << 16


@dataclass(frozen=True)
class Source:
    """Where structures come from, and how patiently they are asked for."""

    pdb_address: str = PDB_ADDRESS
    alphafold_address: str = ALPHAFOLD_ADDRESS
    concurrency: int = 8
    tries: int = 5
    first_wait: float = 1.0
    timeout: float = 30.0
    max_megabytes: int = 1024


@dataclass(frozen=True)
class Target:
    """One thing to fetch: what the list says, its address, and the file it becomes (its ending may be added later)."""

    name: str
    address: str
    file: str
    indirect: bool = False


@dataclass
class Outcome:
    """What came of a list."""

    fetched: int = 0
    present: int = 0
    rejects: list[Reject] = field(default_factory=list)


class FailedError(Exception):
    """A download failed; ``again`` says whether another try may help, ``wait`` what the server asks for in seconds."""

    def __init__(self, reason: str, again: bool, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


def read_targets(path: Path, source: Source) -> list[Target]:
    """The targets of a list: PDB ids, UniProt accessions or addresses, one a line; ``#`` begins a comment.

    Raises
    ------
    DPLM2Error
        If the list cannot be read or is empty.
    ConfigError
        If a line is none of the three.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DPLM2Error(f"{path}: cannot be read ({error})") from error
    targets: dict[str, Target] = {}
    for number, line in enumerate(lines, 1):
        text = line.split(" #")[0].strip()
        if text and not text.startswith("#"):
            target = _target(text, source)
            if target is None:
                raise ConfigError(f"{path}, line {number}: {text!r} is no PDB id, UniProt accession or address")
            while (other := targets.get(target.file.lower())) and other.address != target.address:
                target = Target(target.name, target.address, f"again-{target.file}", target.indirect)
            targets[target.file.lower()] = target
    if not targets:
        raise DPLM2Error(f"{path}: an empty list")
    return list(targets.values())


def _target(text: str, source: Source) -> Target | None:
    if urlsplit(text).scheme in ("http", "https"):
        # The name is taken from the address and made safe: it never leads out of the folder.
        name = UNSAFE.sub("_", unquote(urlsplit(text).path).rsplit("/", 1)[-1]).lstrip(".") or "download"
        return Target(text, text, name[-200:])
    if PDB_ID.fullmatch(text):
        address = source.pdb_address.format(id=text.lower())
        return Target(text, address, text.lower() + _endings(address))
    if accession := UNIPROT.fullmatch(text):
        name = accession[1].upper()
        return Target(text, source.alphafold_address.format(id=name), f"AF-{name}-F1", indirect=True)
    return None


def _endings(address: str) -> str:
    match = re.search(r"(\.[A-Za-z]+(?:\.gz)?)$", urlsplit(address).path)
    return match[1] if match else ""


def fetch(targets: Iterable[Target], folder: Path, source: Source) -> Outcome:
    """Fetch what is not there yet.

    Parameters
    ----------
    targets
        What to fetch; see `read_targets`.
    folder
        Where files go. ``downloads.tsv`` records file, size, SHA-256 and address of each; a file that is there as
        recorded is not fetched again. ``rejected.parquet`` has a row for each that could not be had.
    source
        Addresses, tries and limits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known, outcome, lock = _read_list(folder), Outcome(), threading.Lock()
    targets = list(targets)

    def one(target: Target) -> Reject | None:
        if target.name in known and _is_there(folder, known[target.name]):
            with lock:
                outcome.present += 1
            return None
        try:
            row = _fetch_one(target, folder, source)
        except FailedError as error:
            return Reject(target.address, "", target.name, "not_fetched", str(error))
        with lock:
            known[target.name] = row
            outcome.fetched += 1
            # Written now and then, so that what is there counts after an interruption.
            if outcome.fetched % 100 == 0:
                _write_list(folder, known)
        return None

    pool = concurrent.futures.ThreadPoolExecutor(source.concurrency)
    try:
        results = tqdm(pool.map(one, targets), total=len(targets), unit="file", desc="fetch", disable=None)
        outcome.rejects = [reject for reject in results if reject is not None]
    finally:
        pool.shutdown(cancel_futures=True)
        _write_list(folder, known)
    columns = list(zip(*outcome.rejects, strict=True)) or [[] for _ in REJECTED.names]
    write_table(folder / REJECTED_FILE, pa.table(dict(zip(REJECTED.names, columns, strict=True)), schema=REJECTED))
    return outcome


def _is_there(folder: Path, row: tuple[str, ...]) -> bool:
    file, size, digest, _ = row
    path = folder / file
    return path.is_file() and path.stat().st_size == int(size) and sha256_of_file(path) == digest


def _read_list(folder: Path) -> dict[str, tuple[str, ...]]:
    path = folder / LIST_FILE
    if not path.is_file():
        return {}
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:])
    return {row[0]: tuple(row[1:]) for row in rows if len(row) == 5 and row[2].isdecimal() and "/" not in row[1]}


def _write_list(folder: Path, known: dict[str, tuple[str, ...]]) -> None:
    rows = ["\t".join((name, *row)) for name, row in sorted(known.items())]
    write_text(folder / LIST_FILE, "\n".join(["name\tfile\tsize\tsha256\taddress", *rows, ""]))


def _fetch_one(target: Target, folder: Path, source: Source) -> tuple[str, str, str, str]:
    address, file = target.address, target.file
    if target.indirect:
        address = _retrying(lambda: _file_address(target.address, source), source)
        file += _endings(address)

    def download() -> tuple[str, str]:
        with atomic_path(folder / file) as temporary:
            _download(address, temporary, source)
            _check(temporary)
            return str(temporary.stat().st_size), sha256_of_file(temporary)

    return file, *_retrying(download, source), address


def _retrying(work: Callable, source: Source):  # noqa: ANN202
    for attempt in range(1, source.tries + 1):
        try:
            return work()
        except FailedError as error:
            if not error.again:
                raise
            if attempt == source.tries:
                raise FailedError(f"{error} ({source.tries} tries)", again=False) from error
            time.sleep(min(max(source.first_wait * 2 ** (attempt - 1), error.wait), LONGEST_WAIT))
    raise AssertionError("unreachable: the last try returns or raises")


def _open(address: str, source: Source) -> http.client.HTTPResponse:
    request = urllib.request.Request(address, headers={"User-Agent": "dplm2", "Accept-Encoding": "identity"})
    try:
        return urllib.request.urlopen(request, timeout=source.timeout)
    except urllib.error.HTTPError as error:
        wait = error.headers.get("Retry-After", "")
        raise FailedError(
            f"status {error.code}", error.code in WORTH_ANOTHER_TRY, float(wait) if wait.isdecimal() else 0.0
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise FailedError(f"no connection ({getattr(error, 'reason', error)})", again=True) from error


def _download(address: str, path: Path, source: Source) -> None:
    size, most = 0, source.max_megabytes * MEBIBYTE
    with _open(address, source) as response, path.open("wb") as stream:
        announced = response.headers.get("Content-Length", "")
        try:
            while piece := response.read(PIECE):
                stream.write(piece)
                size += len(piece)
                if size > most:
                    raise FailedError(f"more than {source.max_megabytes} MiB", again=False)
        except (TimeoutError, http.client.HTTPException, OSError) as error:
            raise FailedError(
                f"the connection broke after {size} bytes ({type(error).__name__})", again=True
            ) from error
    if announced.isdecimal() and int(announced) != size:
        raise FailedError(f"{size} bytes came, {announced} were announced", again=True)


def _check(path: Path) -> None:
    """Refuse what is no structure: a message with status 200, a file that a wrong length has cut."""
    if is_archive(path):
        return
    try:
        parse(path.read_bytes(), default_reading())
    except UnreadableError as error:
        raise FailedError(f"what came is no sound structure file: {error}", again=True) from error


def _file_address(address: str, source: Source) -> str:
    """Follow AlphaFold DB's answer, a JSON list of models, to the first model's file."""
    with _open(address, source) as response:
        try:
            models = json.loads(response.read(16 * MEBIBYTE))
            return next(models[0][key] for key in ALPHAFOLD_KEYS if models[0].get(key))
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise FailedError(f"an answer that is not JSON ({type(error).__name__})", again=True) from error
        except (LookupError, TypeError, AttributeError, StopIteration) as error:
            raise FailedError("AlphaFold DB names no file for it", again=False) from error
