"""Downloading structures: in parallel, with retries, and only complete files.

biotite's database clients download one file after another, without time limits, retries or checks; here each file is
checked by reading it before it gets its name.
"""

import concurrent.futures
import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from dplm2.core.artifacts import atomic_path, make_folder, sha256_of_file
from dplm2.core.locks import locked
from dplm2.structures.atoms import UnreadableError
from dplm2.structures.formats.archives import is_archive
from dplm2.structures.formats.gzipped import MEBIBYTE
from dplm2.structures.manifest import SourceFile
from dplm2.structures.reading import default_reading, parse
from dplm2.structures.rejects import Reject
from dplm2.structures.sites import RefusedError, Sites
from dplm2.structures.store import REJECTED, REJECTED_FILE, write_table
from dplm2.structures.targets import FetchSource, FetchTarget, endings

# AlphaFold DB's response lists the files of the current version; the first of these formats is used.
ALPHAFOLD_KEYS = ("bcifUrl", "cifUrl", "pdbUrl")
WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
LIST_FILE, LIST_HEADER = "downloads.tsv", "name\tfile\tsize\tsha256\taddress\n"
LONGEST_WAIT = 60.0
PIECE = 1 << 16


@dataclass
class Outcome:
    """Result of a list; ``files`` has a line for each target, with a ``problem`` if its download failed."""

    fetched: int = 0
    present: int = 0
    rejects: list[Reject] = field(default_factory=list)
    files: list[SourceFile] = field(default_factory=list)


class FailedError(Exception):
    """A download failed; ``again``: whether a retry may help; ``wait``: seconds requested by the server."""

    def __init__(self, reason: str, again: bool, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


def fetch(targets: Sequence[FetchTarget], folder: Path, source: FetchSource, allowed: Sequence[str] = ()) -> Outcome:
    """Download the missing files.

    Several processes may download into one folder if their targets differ.

    Parameters
    ----------
    targets
        Files to download; see `read_targets`.
    folder
        Output folder. ``downloads.tsv`` records file, size, SHA-256 and address of each; a file that matches its record
        is not downloaded again.
    source
        Addresses, retries and limits.
    allowed
        Addresses of further sites to which redirects are followed; see `dplm2.structures.sites`.
    """
    configured = (source.pdb_address.format(id=""), source.alphafold_address.format(id=""))
    sites = Sites.of([*configured, *(target.address for target in targets), *allowed])
    make_folder(folder)
    known, outcome, lock = _read_list(folder), Outcome(), threading.Lock()

    def one(target: FetchTarget) -> SourceFile:
        row = known.get(target.name)
        if row and _is_downloaded(folder, target, row):
            with lock:
                outcome.present += 1
        else:
            try:
                row = _fetch_one(target, folder, source, sites)
            except FailedError as error:
                return SourceFile(target.address, 0, "", " ".join(str(error).split()))
            with lock:
                outcome.fetched += 1
                _record(folder, target.name, row)
        return SourceFile(str(folder / row[0]), int(row[1]), row[2])

    pool = concurrent.futures.ThreadPoolExecutor(source.concurrency)
    try:
        results = tqdm(pool.map(one, targets), total=len(targets), unit="file", desc="fetch", disable=None)
        outcome.files = list(results)
    finally:
        pool.shutdown(cancel_futures=True)
    outcome.rejects = [
        Reject(target.address, "", target.name, "not_fetched", file.problem)
        for target, file in zip(targets, outcome.files, strict=True)
        if file.problem
    ]
    return outcome


def write_rejected(folder: Path, outcome: Outcome) -> None:
    """Write ``rejected.parquet``: a row for each failed download."""
    columns = list(zip(*outcome.rejects, strict=True)) or [[] for _ in REJECTED.names]
    write_table(folder / REJECTED_FILE, pa.table(dict(zip(REJECTED.names, columns, strict=True)), schema=REJECTED))


def _is_downloaded(folder: Path, target: FetchTarget, row: tuple[str, ...]) -> bool:
    file, size, digest, address = row
    # Address and extension come from AlphaFold DB's response.
    same = file.startswith(f"{target.file}.") if target.indirect else (file, address) == (target.file, target.address)
    path = folder / file
    return same and path.is_file() and path.stat().st_size == int(size) and sha256_of_file(path) == digest


def _read_list(folder: Path) -> dict[str, tuple[str, ...]]:
    path = folder / LIST_FILE
    if not path.is_file():
        return {}
    # For a file that was downloaded twice, the later row is valid.
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[1:])
    return {row[0]: tuple(row[1:]) for row in rows if len(row) == 5 and row[2].isdecimal() and "/" not in row[1]}


def _record(folder: Path, name: str, row: tuple[str, ...]) -> None:
    """Record one file immediately, so that it survives an interruption; other processes may do the same."""
    with locked(folder / f".{LIST_FILE}.lock"), (folder / LIST_FILE).open("a", encoding="utf-8") as stream:
        stream.write(("" if stream.seek(0, 2) else LIST_HEADER) + "\t".join((name, *row)) + "\n")


def _fetch_one(target: FetchTarget, folder: Path, source: FetchSource, sites: Sites) -> tuple[str, str, str, str]:
    address, file = target.address, target.file
    if target.indirect:
        address = _retrying(lambda: _file_address(target, source, sites), source)
        file += endings(address)

    def download() -> tuple[str, str]:
        with atomic_path(folder / file) as temporary:
            _download(address, temporary, source, sites)
            _check(temporary)
            return str(temporary.stat().st_size), sha256_of_file(temporary)

    return file, *_retrying(download, source), address


def _retrying(work: Callable, source: FetchSource):  # noqa: ANN202
    for attempt in range(1, source.tries + 1):
        try:
            return work()
        except FailedError as error:
            if not error.again:
                raise
            if attempt == source.tries:
                raise FailedError(f"{error} ({source.tries} attempts)", again=False) from error
            time.sleep(min(max(source.first_wait * 2 ** (attempt - 1), error.wait), LONGEST_WAIT))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _open(address: str, source: FetchSource, sites: Sites) -> http.client.HTTPResponse:
    request = urllib.request.Request(address, headers={"User-Agent": "dplm2", "Accept-Encoding": "identity"})
    try:
        return sites.opener(address).open(request, timeout=source.timeout)
    except RefusedError as error:
        raise FailedError(str(error), again=False) from error
    except urllib.error.HTTPError as error:
        wait = error.headers.get("Retry-After", "")
        raise FailedError(
            f"status {error.code}", error.code in WORTH_ANOTHER_TRY, float(wait) if wait.isdecimal() else 0.0
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise FailedError(f"no connection ({getattr(error, 'reason', error)})", again=True) from error


def _download(address: str, path: Path, source: FetchSource, sites: Sites) -> None:
    size, most = 0, source.max_megabytes * MEBIBYTE
    with _open(address, source, sites) as response, path.open("wb") as stream:
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
        raise FailedError(f"received {size} bytes instead of {announced}", again=True)


def _check(path: Path) -> None:
    """Reject anything but a structure: an error page with status 200, a truncated file."""
    if is_archive(path):
        return
    try:
        parse(path.read_bytes(), default_reading())
    except UnreadableError as error:
        raise FailedError(f"the download is not a valid structure file: {error}", again=True) from error


def _file_address(target: FetchTarget, source: FetchSource, sites: Sites) -> str:
    """The file of the first model in AlphaFold DB's response, a JSON list of models; of the target's version."""
    address = target.address
    with _open(address, source, sites) as response:
        try:
            models = json.loads(response.read(16 * MEBIBYTE))
            named = str(next(models[0][key] for key in ALPHAFOLD_KEYS if models[0].get(key)))
            sites.check(named, address)
            return named if target.version is None else _of_version(named, target.version)
        except RefusedError as error:
            raise FailedError(str(error), again=False) from error
        except (http.client.HTTPException, OSError, ValueError, RecursionError) as error:
            raise FailedError(f"the response is not JSON ({type(error).__name__})", again=True) from error
        except (LookupError, TypeError, AttributeError, StopIteration) as error:
            raise FailedError("AlphaFold DB lists no file for it", again=False) from error


def _of_version(address: str, version: int) -> str:
    """The address of another version of a model: the number after ``model_v`` is replaced."""
    other, count = re.subn(r"model_v[0-9]+", f"model_v{version}", address)
    if not count:
        raise FailedError(f"the address of AlphaFold DB's file names no version ({address})", again=False)
    return other
