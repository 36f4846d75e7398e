"""Tokens of datasets: Parquet files of structure tokens, one for each Parquet file of chains.

Finished work is not repeated: a tokens file that matches its chains file and tokenizer is kept, and within a file
finished chains are saved every minute. Processes that run on the same files share the work.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from dplm2.core import parquet
from dplm2.core.artifacts import RUN_FILE, read_json_object, sha256_of_file
from dplm2.core.batching import by_length
from dplm2.core.errors import DPLM2Error
from dplm2.core.locks import HeldError, locked
from dplm2.geometry.backbone import observed_residues
from dplm2.settings.tokenizer import TokenizationSettings
from dplm2.structures.store import (
    CHAINS,
    SELECTION_FILE,
    TOKENIZED,
    backbones,
    part_files,
    parts_found,
    read_columns,
    read_selection,
    shards_selected,
)
from dplm2.tokenizer.model import Decoded, StructureTokenizer

SCHEMA = pa.schema(
    [
        ("chain_id", pa.string()),
        ("sequence", pa.string()),
        ("structure_tokens", pa.list_(pa.uint16())),
        ("observed", pa.list_(pa.bool_())),
        ("length", pa.int32()),
        ("plddt_mean", pa.float32()),
        ("cluster", pa.string()),
        ("split", pa.string()),
    ]
)
TOKENS = "structure_tokens"
CHAIN_COLUMNS = ["chain_id", "sequence", "backbone", "plddt", "cluster", "split"]
REQUIRED_COLUMNS = ("chain_id", "sequence", "structure_tokens")
SECONDS_BETWEEN_SAVES = 60.0


def parts_of(sources: Sequence[Path], what: str, selections: Sequence[Path | str] | None = None) -> list[Path]:
    """The Parquet files in folders (``part-*.parquet``), and single files, in order.

    With ``selections``, one per source, only the parts of their datasets are returned.

    Raises
    ------
    DPLM2Error
        If a source does not exist, or a folder contains no parts.
    """
    parts = []
    paired = selections if selections and len(selections) == len(sources) else [None] * len(sources)
    for source, selection in zip(map(Path, sources), paired, strict=True):
        selection = source / SELECTION_FILE if selection is None else selection
        shards = shards_selected(selection) if source.is_dir() else None
        if shards is not None:
            parts += part_files(source, shards)
            continue
        found = parts_found(source) if source.is_dir() else [source]
        _refuse_missing(source, len(found))
        if not found or not found[0].exists():
            raise DPLM2Error(f"{source}: contains no {what} (part-*.parquet)")
        parts += found
    return parts


def _refuse_missing(source: Path, found: int) -> None:
    """Raise DPLM2Error if a folder of tokens has fewer parts than its run wrote."""
    record = source / RUN_FILE
    if record.is_file():
        written = read_json_object(record).get("parts")
        if isinstance(written, int) and found < written:
            raise DPLM2Error(f"{source}: only {found} of its {written} parts exist; encode the chains again")


def encode_parts(
    work: Sequence[tuple[Path, Path]],
    tokenizer: StructureTokenizer,
    settings: TokenizationSettings,
    log: Callable[[str], None] = print,
) -> None:
    """Tokenize files of chains, possibly together with other processes.

    A file in use by another process is skipped, and revisited at the end in case that process was killed.

    Parameters
    ----------
    work
        Files of chains and the files of tokens to write.
    tokenizer, settings, log
        See ``encode_part``.
    """
    skipped = []
    for part, out in work:
        with _claimed(out, wait=False) as ours:
            if ours:
                encode_part(part, out, tokenizer, settings, log)
            else:
                log(f"{out}: in use by another process")
                skipped.append((part, out))
    for part, out in skipped:
        with _claimed(out, wait=True):
            encode_part(part, out, tokenizer, settings, log)


def remove_others(folder: Path, names: Sequence[str]) -> None:
    """Remove parts of an earlier run, those not in ``names``, from a folder of tokens."""
    for path in folder.glob("part-*.parquet"):
        if path.name not in names:
            path.unlink()


@contextmanager
def _claimed(out: Path, wait: bool) -> Iterator[bool]:
    path = out.with_name(f".{out.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, None if wait else 0))
        except HeldError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def encode_part(
    part: Path,
    out: Path,
    tokenizer: StructureTokenizer,
    settings: TokenizationSettings,
    log: Callable[[str], None] = print,
) -> bool:
    """Tokenize one file of chains.

    Parameters
    ----------
    part
        Parquet file of chains.
    out
        Parquet file of tokens to write, with rows in the order of ``part``.
    tokenizer
        The tokenizer; its fingerprint is stored in the file.
    settings
        Batch size and precision.
    log
        Function that receives progress messages.

    Returns
    -------
    bool
        False if a matching ``out`` already existed.
    """
    origin = _origin(part, tokenizer, settings)
    if out.exists() and _metadata(out) == origin:
        log(f"{out}: already finished")
        return False
    chains = _read_chains(part)
    if TOKENS in parquet.read_schema(part).names:
        _write(out, chains, _given_tokens(part, tokenizer), origin)
        log(f"{out}: {len(chains)} chains that came as structure tokens")
        return True
    partial = out.with_name(f".{out.name}.unfinished")
    done = _rows_of(partial, origin)
    names = chains["chain_id"].to_pylist()
    remaining = {name: backbone for name, backbone in zip(names, backbones(chains), strict=True) if name not in done}
    _encode_chains(remaining, done, tokenizer, settings, lambda: _write(partial, chains, done, origin), log, part.name)
    _write(out, chains, done, origin)
    partial.unlink(missing_ok=True)
    return True


def _read_chains(part: Path) -> pa.Table:
    chains = read_columns(part, [CHAINS.field(name) for name in CHAIN_COLUMNS], "a file of chains")
    if pc.count_distinct(chains["chain_id"]).as_py() != len(chains):
        raise DPLM2Error(f"{part}: two chains have the same chain_id")
    return chains


def _given_tokens(part: Path, tokenizer: StructureTokenizer) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The tokens of chains that came as tokens (`dplm2.structures.tokenized`); all residues count as observed."""
    rows = read_columns(part, [TOKENIZED.field(name) for name in ("chain_id", TOKENS)], "a file of chains").to_pylist()
    for row in rows:
        if max(row[TOKENS]) >= tokenizer.codebook_size:
            raise DPLM2Error(
                f"{part}: chain {row['chain_id']} has the structure token {max(row[TOKENS])}, but the tokenizer has "
                f"{tokenizer.codebook_size} codes; name the tokenizer of these tokens in datasets.<name>.hub.tokenizer"
            )
    return {row["chain_id"]: (np.array(row[TOKENS], np.uint16), np.ones(len(row[TOKENS]), bool)) for row in rows}


def _encode_chains(
    remaining: dict[str, np.ndarray],
    done: dict[str, tuple[np.ndarray, np.ndarray]],
    tokenizer: StructureTokenizer,
    settings: TokenizationSettings,
    save: Callable[[], None],
    log: Callable[[str], None],
    name: str,
) -> None:
    names, chains = list(remaining), list(remaining.values())
    lengths = [len(chain) for chain in chains]
    total, finished, start = sum(lengths), 0, time.monotonic()
    saved = start
    with tqdm(total=total, unit="residue", unit_scale=True, desc=name, disable=None) as bar:
        for group in by_length(lengths, settings.token_budget):
            tokens = tokenizer.encode([chains[index] for index in group], settings.token_budget, settings.precision)
            for index, values in zip(group, tokens, strict=True):
                done[names[index]] = values, observed_residues(chains[index])
            step = sum(lengths[index] for index in group)
            finished += step
            bar.update(step)
            now = time.monotonic()
            if now - saved > SECONDS_BETWEEN_SAVES:
                save()
                rate = finished / (now - start)
                log(f"{name}: {finished}/{total} residues, {rate:.0f}/s, {(total - finished) / rate / 60:.1f} min left")
                saved = now
    if total:
        log(f"{name}: {len(chains)} chains, {total} residues, {total / (time.monotonic() - start):.0f} residues/s")


def _origin(part: Path, tokenizer: StructureTokenizer, settings: TokenizationSettings) -> dict[str, str]:
    return {
        "tokenizer_fingerprint": tokenizer.codes_fingerprint,
        "codebook_size": str(tokenizer.codebook_size),
        "chains_sha256": sha256_of_file(part),
        "precision": settings.precision,
    }


def _metadata(path: Path) -> dict[str, str]:
    return parquet.read_metadata(path)


def _rows_of(path: Path, origin: dict[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names = ("chain_id", "structure_tokens", "observed")
    try:
        if not path.exists() or _metadata(path) != origin:
            return {}
        rows = read_columns(path, [SCHEMA.field(name) for name in names], "a file of tokens").to_pylist()
    except DPLM2Error:  # damaged: its chains are encoded again
        return {}
    return {
        row["chain_id"]: (np.array(row["structure_tokens"], np.uint16), np.array(row["observed"], bool)) for row in rows
    }


def _write(
    path: Path, chains: pa.Table, done: dict[str, tuple[np.ndarray, np.ndarray]], origin: dict[str, str]
) -> None:
    chains = chains.drop_columns(["backbone"]).filter(pc.is_in(chains["chain_id"], pa.array(list(done), pa.string())))
    tokens = [done[name] for name in chains["chain_id"].to_pylist()]
    plddt = [None if row is None else float(np.nanmean(row)) for row in chains["plddt"].to_pylist()]
    columns = {
        "chain_id": chains["chain_id"],
        "sequence": chains["sequence"],
        "structure_tokens": [values for values, _ in tokens],
        "observed": [observed for _, observed in tokens],
        "length": [len(values) for values, _ in tokens],
        "plddt_mean": plddt,
        "cluster": chains["cluster"].cast(pa.string()),
        "split": chains["split"].cast(pa.string()),
    }
    table = pa.table([pa.chunked_array([_array(columns[f.name], f.type)]) for f in SCHEMA], schema=SCHEMA)
    parquet.write_table(path, table, metadata=origin)


def _array(values, kind: pa.DataType) -> pa.Array:
    return values.combine_chunks().cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind)


def read_tokens(
    sources: Sequence[Path | str] | Path | str,
    split: str | None = None,
    selections: Sequence[Path | str] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read tokens.

    Parameters
    ----------
    sources
        Folders or files of tokens, all from the same tokenizer.
    split
        Read only this split ("train", "validation", "test").
    selections
        ``selection.parquet`` of the datasets, from which cluster and split are taken; chains in none of them are
        dropped.
    columns
        Read only these columns.

    Returns
    -------
    pyarrow.Table
        Tokens; the schema's metadata contain ``tokenizer_fingerprint`` and ``codebook_size``.

    Raises
    ------
    DPLM2Error
        If files are from different tokenizers (the message names both), or a chain occurs twice.
    """
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    parts = parts_of([Path(source) for source in sources], "tokens", selections)
    origins = [_token_metadata(part) for part in parts]
    for part, origin in zip(parts, origins, strict=True):
        if origin != origins[0]:
            raise DPLM2Error(
                f"{parts[0]} and {part} are tokens from different tokenizers "
                f"({origins[0]['tokenizer_fingerprint']} and {origin['tokenizer_fingerprint']})"
            )
    table = pa.concat_tables([_read_part(part) for part in parts], promote_options="default")
    if pc.count_distinct(table["chain_id"]).as_py() != len(table):
        raise DPLM2Error(f"the tokens in {', '.join(map(str, sources))} contain the same chain_id twice")
    if selections:
        table = _select(table, [Path(selection) for selection in selections])
    if split is not None:
        table = table.filter(pc.fill_null(pc.equal(table["split"], split), False))
    return (table.select(list(columns)) if columns else table).replace_schema_metadata(origins[0])


def _read_part(part: Path) -> pa.Table:
    """The columns of a tokens file, in the types of `SCHEMA`; columns that only describe the chains may be missing."""
    present = parquet.read_schema(part).names
    fields = [field for field in SCHEMA if field.name in present or field.name in REQUIRED_COLUMNS]
    table = read_columns(part, fields, "a file of tokens")
    names = [name for name in REQUIRED_COLUMNS if table[name].null_count]
    if names:
        raise DPLM2Error(f"{part}: not a file of tokens, its column {names[0]} has empty cells")
    return table


def _token_metadata(part: Path) -> dict[str, str]:
    metadata = _metadata(part)
    try:
        return {key: metadata[key] for key in ("tokenizer_fingerprint", "codebook_size")}
    except KeyError as error:
        raise DPLM2Error(f"{part}: not a file of tokens (its metadata name no tokenizer)") from error


def _select(table: pa.Table, selections: list[Path]) -> pa.Table:
    chosen = pa.concat_tables([read_selection(path) for path in selections])
    row = pc.index_in(table["chain_id"], chosen["chain_id"].combine_chunks())
    kept = pc.is_valid(row)
    table, row = table.filter(kept), row.filter(kept)
    for name in ("cluster", "split"):
        table = table.set_column(table.column_names.index(name), name, chosen[name].take(row))
    return table


def decode_tokens(
    table: pa.Table, tokenizer: StructureTokenizer, token_budget: int, precision: str = "float32"
) -> Iterator[tuple[str, str, Decoded]]:
    """Decode a table from ``read_tokens``; yield each chain's id, sequence and ``Decoded``.

    For token budget and precision see ``StructureTokenizer.decode``.

    Raises
    ------
    DPLM2Error
        If the tokens are from another tokenizer; the message names both.
    """
    fingerprint = (table.schema.metadata or {}).get(b"tokenizer_fingerprint", b"").decode()
    if fingerprint != tokenizer.codes_fingerprint:
        raise DPLM2Error(
            f"the tokens are from tokenizer {fingerprint}, not from the one given ({tokenizer.codes_fingerprint})"
        )
    names, sequences = table["chain_id"].to_pylist(), table["sequence"].to_pylist()
    tokens = [np.array(row, np.int64) for row in table["structure_tokens"].to_pylist()]
    with tqdm(total=sum(map(len, tokens)), unit="residue", unit_scale=True, desc="decode", disable=None) as bar:
        for group in by_length([len(row) for row in tokens], token_budget):
            decoded = tokenizer.decode([tokens[index] for index in group], token_budget, precision)
            for index, chain in zip(group, decoded, strict=True):
                yield names[index], sequences[index], chain
                bar.update(len(tokens[index]))
