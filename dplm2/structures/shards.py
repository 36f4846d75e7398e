"""Cleaning one shard in several processes with bounded memory: files in, chains and rejects out.

Results are written in the order of the manifest, so that equal input gives equal bytes.
"""

import concurrent.futures
import hashlib
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from dplm2.core.errors import DPLM2Error
from dplm2.settings.dataset import DatasetSettings
from dplm2.structures.atoms import UnreadableError
from dplm2.structures.cleaning import Chain, clean_entry
from dplm2.structures.formats.archives import Item, items_of
from dplm2.structures.manifest import SourceFile, entry_name, unchanged_since_listed
from dplm2.structures.reading import parse
from dplm2.structures.rejects import Reject
from dplm2.structures.store import CHAINS, REJECTED, write_chains, write_table
from dplm2.structures.workers import stop_workers, usable_cores, worker_pool

BATCH_ITEMS, BATCH_BYTES = 32, 8 << 20
BATCHES_PER_WORKER = 4
# A batch of ordinary files takes a second; after minutes, it is considered hung.
BATCH_SECONDS, ITEM_SECONDS = 900, 300
UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")
LONGEST_NAME = 120
CLEANING_FAILED = "read, but cleaning it failed"
CHAIN_FIELDS = (
    "author_chain", "label_chain", "sequence", "insertion_codes", "method", "resolution", "release_date",
    "helix", "strand", "coil", "radius_of_gyration",
)  # fmt: skip


@dataclass
class BatchResult:
    """A worker's results for some items: chains without final names, rejects, and the SHA-256 of the files."""

    chains: pa.RecordBatch
    rejects: list[Reject]
    hashes: dict[str, str] = field(default_factory=dict)


@dataclass
class Counts:
    """Counts of a shard."""

    files: int = 0
    chains: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def clean_shard(
    files: list[SourceFile],
    settings: DatasetSettings,
    dataset: str,
    chains_path: str | os.PathLike,
    rejected_path: str | os.PathLike,
    workers: int | None = None,
) -> Counts:
    """Clean the files of one shard into a Parquet file of chains and one of rejects.

    Parameters
    ----------
    files
        The lines of the shard's manifest.
    settings
        The dataset's settings.
    dataset
        Its name, for the column ``dataset``.
    chains_path, rejected_path
        Output files.
    workers
        Number of processes; 0: only this one; None: one per available core.
    """
    counts, rejects, names = Counts(files=len(files)), [], Names()

    def finished() -> Iterator[pa.RecordBatch]:
        for result in _results(files, settings, workers, counts):
            rejects.extend(result.rejects)
            counts.hashes.update(result.hashes)
            yield names.apply(result.chains, dataset)

    counts.chains = write_chains(chains_path, finished())
    write_rejects(rejected_path, rejects, counts)
    return counts


def write_rejects(path: str | os.PathLike, rejects: list[Reject], counts: Counts) -> None:
    """Write the rejects of a shard and count them by code."""
    columns = list(zip(*rejects, strict=True)) or [[] for _ in REJECTED.names]
    write_table(path, pa.table(dict(zip(REJECTED.names, columns, strict=True)), schema=REJECTED))
    for reject in rejects:
        counts.rejects[reject.code] = counts.rejects.get(reject.code, 0) + 1


class Names:
    """Assigns chain ids: ``<entry>_<chain>``, safe for file names, unique even if letter case is ignored."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def apply(self, batch: pa.RecordBatch, dataset: str) -> pa.RecordBatch:
        """Set the columns ``chain_id`` and ``dataset``."""
        wanted = batch.column("chain_id").to_pylist()
        origins = zip(batch.column("source_file").to_pylist(), batch.column("source_id").to_pylist(), strict=True)
        ids = [self._unique(name, "\t".join(origin)) for name, origin in zip(wanted, origins, strict=True)]
        columns = {name: batch.column(name) for name in batch.schema.names}
        columns |= {"chain_id": pa.array(ids, pa.string()), "dataset": pa.array([dataset] * len(ids), pa.string())}
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)

    def _unique(self, name: str, origin: str) -> str:
        candidate, attempt = name, 0
        while candidate.lower() in self._taken:
            digest = hashlib.sha256(f"{origin}\t{attempt}".encode("utf-8", "surrogateescape")).hexdigest()
            candidate, attempt = f"{name}-{digest[:6]}", attempt + 1
        self._taken.add(candidate.lower())
        return candidate


def chain_name(entry: str, chain: str) -> str:
    """``<entry>_<chain>`` with letters, digits and ``. + -`` only; an entry that ends with the chain is kept."""
    entry = UNSAFE.sub("_", entry.encode("utf-8", "replace").decode()).strip("._-") or "entry"
    chain = UNSAFE.sub("_", chain) or "blank"
    if len(entry) > LONGEST_NAME:
        entry = f"{entry[:LONGEST_NAME]}-{hashlib.sha256(entry.encode()).hexdigest()[:6]}"
    return entry if entry.endswith(f"_{chain}") else f"{entry}_{chain}"


def clean_item(item: Item, settings: DatasetSettings) -> tuple[list[Chain], list[Reject]]:
    """Read and clean one structure; any problem becomes a reject."""
    origin = (f"{item.source_file}:{item.member}" if item.member else item.source_file, item.source_sha256)
    if item.problem:
        return [], [Reject(*origin, "", item.code, item.problem)]
    try:
        chains, refusals = clean_entry(parse(item.content, settings.reading), settings)
    except UnreadableError as error:
        return [], [Reject(*origin, "", "unreadable", str(error))]
    except Exception as error:  # noqa: BLE001  (one bad file must not stop a run of half a million)
        text = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        return [], [Reject(*origin, "", "unreadable", f"{CLEANING_FAILED} ({text})")]
    return chains, [Reject(*origin, refusal.chain, refusal.code, refusal.reason) for refusal in refusals]


def clean_batch(items: list[Item], settings: DatasetSettings) -> BatchResult:
    """Clean some items into one record batch; runs in the workers."""
    rows: list[tuple[Item, Chain]] = []
    rejects: list[Reject] = []
    hashes: dict[str, str] = {}
    for item in map(with_content, items):
        hashes[item.source_file] = item.source_sha256
        chains, refused = clean_item(item, settings)
        rows += [(replace(item, content=None), chain) for chain in chains]
        rejects += refused
    return BatchResult(_record_batch(rows), rejects, hashes)


def with_content(item: Item) -> Item:
    """An item with its content, and the SHA-256 of its file if not yet known."""
    if item.content is not None or item.problem:
        return item
    try:
        content = Path(item.source_file).read_bytes()
    except OSError as error:
        return replace(item, problem=f"cannot be read ({error.strerror})")
    return replace(item, content=content, source_sha256=item.source_sha256 or hashlib.sha256(content).hexdigest())


Work = Callable[[list[Item], DatasetSettings], BatchResult]


def _record_batch(rows: list[tuple[Item, Chain]]) -> pa.RecordBatch:
    chains = [chain for _, chain in rows]
    origins = [f"{item.source_file}:{item.member}" if item.member else item.source_file for item, _ in rows]
    columns = {
        "chain_id": [chain_name(item.entry, chain.author_chain) for item, chain in rows],
        "source_file": origins,
        "source_sha256": [item.source_sha256 for item, _ in rows],
        "source_id": [f"{item.entry}:{chain.author_chain}" for item, chain in rows],
        "length": [len(chain) for chain in chains],
        "observed": [int(chain.observed_L.sum()) for chain in chains],
        "residue_index": _lists([chain.residue_index for chain in chains], np.int32),
        "backbone": _lists([chain.backbone_LAX for chain in chains], np.float32),
        "plddt": _lists([chain.plddt for chain in chains], np.float32),
    }
    columns.update({name: [getattr(chain, name) for chain in chains] for name in CHAIN_FIELDS})
    nothing = [None] * len(rows)
    arrays = [
        values if isinstance(values := columns.get(field.name, nothing), pa.Array) else pa.array(values, field.type)
        for field in CHAINS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=CHAINS)


def _lists(arrays: list[np.ndarray | None], kind: type) -> pa.ListArray:
    sizes = np.array([0 if array is None else array.size for array in arrays], np.int64)
    flat = [array.reshape(-1) for array in arrays if array is not None]
    values = _array(np.concatenate(flat) if flat else np.empty(0), kind)
    absent = [array is None for array in arrays]
    mask = pa.array(absent) if any(absent) else None
    return pa.ListArray.from_arrays(_array(np.append(0, np.cumsum(sizes)), np.int32), values, mask=mask)


def _array(values: np.ndarray, kind: type) -> pa.Array:
    """An Arrow array without nulls; ``pyarrow.array`` would import pandas in every worker."""
    values = np.ascontiguousarray(values, kind)
    return pa.Array.from_buffers(pa.from_numpy_dtype(kind), len(values), [None, pa.py_buffer(values)])


def _batches(files: Iterable[SourceFile], settings: DatasetSettings, counts: Counts) -> Iterator[list[Item]]:
    waiting, size = [], 0
    with tqdm(total=counts.files, unit="file", desc="clean", disable=None) as bar:
        for file in files:
            for item in _items(file, settings):
                waiting.append(item)
                size += file.size if item.content is None else len(item.content)
                if len(waiting) >= BATCH_ITEMS or size >= BATCH_BYTES:
                    yield waiting
                    waiting, size = [], 0
            bar.update()
    if waiting:
        yield waiting


def _items(file: SourceFile, settings: DatasetSettings) -> Iterable[Item]:
    if file.problem:
        return [Item(file.path, file.sha256, entry_name(file.path), problem=file.problem, code="not_fetched")]
    if not unchanged_since_listed(file):
        raise DPLM2Error(f"{file.path}: changed or removed since the dataset was listed; run again")
    return items_of(file.path, file.sha256, settings.reading)


def _results(
    files: list[SourceFile], settings: DatasetSettings, workers: int | None, counts: Counts, work: Work = clean_batch
) -> Iterator[BatchResult]:
    batches = _batches(files, settings, counts)
    workers = usable_cores() if workers is None else workers
    if workers == 0:
        for batch in batches:
            yield work(batch, settings)
        return
    while True:
        lost: list[list[Item]] = []
        yield from _pooled(batches, settings, workers, work, lost)
        if not lost:
            return
        # A worker died or hangs: its items are repeated, one per process, and the others continue in a new pool.
        for item in itertools.chain.from_iterable(lost):
            yield _alone(item, settings, work)


def _pooled(
    batches: Iterator[list[Item]], settings: DatasetSettings, workers: int, work: Work, lost: list[list[Item]]
) -> Iterator[BatchResult]:
    """Results in order; if the pool breaks, the batches in progress are added to ``lost`` and this ends."""
    pool = worker_pool(workers)
    running: deque[tuple[list[Item], concurrent.futures.Future]] = deque()
    try:
        for batch in batches:
            try:
                running.append((batch, pool.submit(work, batch, settings)))
            except BrokenProcessPool:
                running.append((batch, _broken()))
            if len(running) >= workers * BATCHES_PER_WORKER:
                yield running[0][1].result(BATCH_SECONDS)
                running.popleft()
        while running:
            yield running[0][1].result(BATCH_SECONDS)
            running.popleft()
    except (BrokenProcessPool, TimeoutError):
        lost.extend(batch for batch, _ in running)
    finally:
        stop_workers(pool)


def _broken() -> concurrent.futures.Future:
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_exception(BrokenProcessPool())
    return future


def _alone(item: Item, settings: DatasetSettings, work: Work) -> BatchResult:
    pool = worker_pool(1)
    try:
        return pool.submit(work, [item], settings).result(ITEM_SECONDS)
    except BrokenProcessPool:
        problem = "the reader crashed on this file"
    except TimeoutError:
        problem = f"reading takes longer than {ITEM_SECONDS} seconds"
    finally:
        stop_workers(pool)
    return clean_batch([Item(item.source_file, item.source_sha256, item.entry, item.member, None, problem)], settings)


def part_paths(folder: str | os.PathLike, manifest: str | os.PathLike) -> tuple[Path, Path]:
    """Output paths of the chains and the rejects of a manifest ``part-XXXXX.tsv``."""
    number = Path(manifest).stem.removeprefix("part-")
    return Path(folder) / f"part-{number}.parquet", Path(folder) / "shards" / f"rejected-{number}.parquet"
