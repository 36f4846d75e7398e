"""Representations of proteins: hidden states of the language model for each residue on each track, or pooled.

Shapes: B batch, T tokens (both tracks), L residues, D model width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from dplm2.core import parquet
from dplm2.core.artifacts import fingerprint, make_folder
from dplm2.core.batching import by_length
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.memory import split_on_out_of_memory
from dplm2.generation.bounds import check_network
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import fingerprint_of, ids_of
from dplm2.generation.task import Target
from dplm2.language.layout import EDGES, join
from dplm2.language.vocabulary import TRACKS, Track, Vocabulary

Pool = Literal["mean", "first", "none"]
Numbers = Literal["float32", "float16"]
PROTEINS_PER_PART = 1000
BYTES_PER_PART = 1 << 28

Vectors = dict[tuple[int, Track], np.ndarray]
"""Vectors (D,), or (L*D,) without pooling, of a protein by layer and track."""


@dataclass(frozen=True)
class Embedding:
    """What of the hidden states is kept.

    Attributes
    ----------
    pool
        ``mean`` over the known residues of a track, ``first``: the token that begins the track, or ``none``: one vector
        per residue.
    layers
        After which layers; 0 is the input of the first, negative numbers count from the last (-1).
    numbers
        Type of the stored numbers.
    token_budget
        Maximum number of tokens per batch, including padding.
    bfloat16
        Whether the network computes in bfloat16 (a GPU's tensor cores).
    """

    pool: Pool = "mean"
    layers: tuple[int, ...] = (-1,)
    numbers: Numbers = "float32"
    token_budget: int = 8192
    bfloat16: bool = False

    def resolved(self, depth: int) -> tuple[int, ...]:
        """The layers counted from the first, each once.

        Raises
        ------
        ConfigError
            If the network has no such layer.
        """
        for layer in self.layers:
            if not -depth - 1 <= layer <= depth:
                raise ConfigError(f"--layers {layer}: the model has {depth} layers (0 to {depth}, or -1 for the last)")
        return tuple(dict.fromkeys(layer % (depth + 1) for layer in self.layers))


def embed(model: DPLM2, targets: Sequence[Target], embedding: Embedding | None = None) -> pa.Table:
    """Representations of proteins.

    Parameters
    ----------
    model
        The language model.
    targets
        Proteins with a sequence, structure tokens or both; an unknown residue (``?``, -1) is masked.
    embedding
        What is kept; by default the mean over the last layer.

    Returns
    -------
    pyarrow.Table
        A row per protein, in the order given: ``chain_id``, ``length``, ``width`` (D), and per track
        ``sequence_embedding`` and ``structure_embedding``, list of D values, or of L*D (residue by residue) without
        pooling; null if the protein lacks the track, or if no residue of it is known and the mean is asked for. With
        several layers, the columns are ``sequence_embedding_6`` and so on.

    Raises
    ------
    ConfigError
        If the network lacks a layer, or a protein is too long for the memory.
    DPLM2Error
        If a protein does not fit into memory, or its values into float16; the message names it.
    """
    embedding = embedding or Embedding()
    layers = embedding.resolved(model.network.depth)
    check_network(targets, model.network)
    ids = [ids_of(target, model.vocabulary) for target in targets]
    vectors: list[Vectors] = [{} for _ in targets]

    def work(batch: list[int]) -> list[Vectors]:
        return _embed_batch(model, [ids[index] for index in batch], embedding, layers)

    done = split_on_out_of_memory(
        _batches(ids, embedding.token_budget),
        work,
        lambda index: targets[index].length,
        lambda index: targets[index].name,
        "protein",
    )
    for batch, found in done:
        for index, own in zip(batch, found, strict=True):
            _check_range(targets[index].name, own)
            vectors[index] = own
    width = model.network.model.config.hidden_size
    return table_of(targets, vectors, width, layers, tuple(reversed(TRACKS)), embedding.numbers)


def table_of(
    targets: Sequence[Target],
    vectors: Sequence[Vectors],
    width: int,
    layers: Sequence[int],
    tracks: Sequence[Track],
    numbers: Numbers,
) -> pa.Table:
    """The table that `embed` describes, of the vectors of each protein."""
    columns = {
        "chain_id": pa.array([target.name for target in targets], pa.string()),
        "length": pa.array([target.length for target in targets], pa.int32()),
        "width": pa.array([width] * len(targets), pa.int32()),
    }
    kind = pa.list_(pa.float16() if numbers == "float16" else pa.float32())
    for layer in layers:
        for track in tracks:
            name = f"{track}_embedding" + (f"_{layer}" if len(layers) > 1 else "")
            columns[name] = pa.array([own.get((layer, track)) for own in vectors], kind)
    return pa.table(columns)


def _check_range(name: str, vectors: Vectors) -> None:
    for (layer, track), values in vectors.items():
        if not np.isfinite(values).all():
            raise DPLM2Error(
                f"{name}: a value of layer {layer}, {track} track, is not finite as {values.dtype}; use float32"
            )


def _batches(ids: Sequence[dict[Track, np.ndarray]], token_budget: int) -> Iterator[list[int]]:
    """Indices of proteins with the same tracks and about the same length, within the budget."""
    lengths = [len(next(iter(own.values()))) for own in ids]
    costs = [len(own) * (length + EDGES) for own, length in zip(ids, lengths, strict=True)]
    return by_length(costs, token_budget, kinds=[tuple(own) for own in ids])


@torch.inference_mode()
def _embed_batch(model: DPLM2, ids: Sequence[dict[Track, np.ndarray]], embedding: Embedding, layers) -> list[Vectors]:
    network, present = model.network, list(ids[0])
    ids_BT = join(model.vocabulary, *([own.get(track) for own in ids] for track in TRACKS)).to(network.device)
    with torch.autocast(network.device.type, torch.bfloat16, enabled=embedding.bfloat16):
        hidden = network.hidden_of_layers(ids_BT, layers)
    half = ids_BT.shape[1] // len(present)
    results: list[Vectors] = [{} for _ in ids]
    for number, track in enumerate(present):
        columns, own_ids = slice(number * half, (number + 1) * half), [own[track] for own in ids]
        for layer, hidden_BTD in hidden.items():
            rows = _kept(hidden_BTD[:, columns], ids_BT[:, columns], own_ids, model, embedding, track)
            for own, row in zip(results, rows, strict=True):
                if row is not None:
                    own[layer, track] = row
    return results


def _kept(hidden_BHD: Tensor, ids_BH: Tensor, ids, model: DPLM2, embedding: Embedding, track: Track) -> list:
    """What is stored of one track of a batch, None where no residue is known."""
    dtype = torch.float16 if embedding.numbers == "float16" else torch.float32
    if embedding.pool == "none":
        stored = hidden_BHD[:, 1:].to(dtype).cpu().numpy()
        return [own[: len(residues)].reshape(-1) for own, residues in zip(stored, ids, strict=True)]
    if embedding.pool == "first":
        return list(hidden_BHD[:, 0].to(dtype).cpu().numpy())
    means_BD, some_B = mean_of_known(hidden_BHD, ids_BH, model.vocabulary, track)
    return [own if some else None for own, some in zip(means_BD.to(dtype).cpu().numpy(), some_B.tolist(), strict=True)]


def mean_of_known(hidden_BHD: Tensor, ids_BH: Tensor, vocabulary: Vocabulary, track: Track) -> tuple[Tensor, Tensor]:
    """Mean (B, D), in float32, over the known residues of a track, and whether (B,) there are any."""
    known_BH = (ids_BH != vocabulary.mask(track)) & ~vocabulary.is_edge(ids_BH)
    sums_BD = torch.bmm(known_BH.float().unsqueeze(1), hidden_BHD.float()).squeeze(1)
    return sums_BD / known_BH.sum(1, keepdim=True).clamp(min=1), known_BH.any(1)


@dataclass(frozen=True)
class Embedder:
    """What makes representations.

    Attributes
    ----------
    fingerprint
        Of the weights.
    depth, width
        Number of layers, and values per vector.
    embed
        From proteins to a table as that of `embed`.
    """

    fingerprint: str
    depth: int
    width: int
    embed: Callable[[Sequence[Target], Embedding], pa.Table]

    @classmethod
    def of(cls, model: DPLM2) -> "Embedder":
        """A language model of both tracks."""
        width = model.network.model.config.hidden_size
        return cls(model.fingerprint, model.network.depth, width, partial(embed, model))


def embed_folder(source: Embedder, targets: Sequence[Target], embedding: Embedding, out: Path) -> int:
    """Write representations as ``part-00000.parquet``, ...; parts that an interrupted run finished are kept.

    A part holds at most `PROTEINS_PER_PART` proteins and about `BYTES_PER_PART` bytes of vectors, which bounds the
    memory.

    Returns
    -------
    int
        Number of parts.

    Raises
    ------
    DPLM2Error, ConfigError
        As `embed`.
    """
    layers = embedding.resolved(source.depth)
    parts = list(_parts(targets, embedding, len(layers) * source.width))
    make_folder(out)
    kept = 0
    with tqdm(total=len(targets), desc="embed", unit="protein", disable=None) as bar:
        for number, part in enumerate(parts):
            path, own = out / f"part-{number:05d}.parquet", targets[part.start : part.stop]
            made_from = fingerprint([source.fingerprint, embedding.pool, layers, embedding.numbers, embedding.bfloat16])
            made_from = fingerprint([made_from, fingerprint_of(own)])
            if parquet.is_made_from(path, made_from):
                kept += 1
            else:
                parquet.write_table(path, source.embed(own, embedding), metadata={parquet.MADE_FROM: made_from})
            bar.update(len(own))
    for path in out.glob("part-*.parquet"):
        if path.name not in {f"part-{number:05d}.parquet" for number in range(len(parts))}:
            path.unlink()
    if kept:
        print(f"{kept} of {len(parts)} parts were already finished")
    return len(parts)


def _parts(targets: Sequence[Target], embedding: Embedding, values: int) -> Iterator[range]:
    """Ranges of proteins; ``values``: numbers per vector and track, of all layers."""
    start, size = 0, 0
    width = values * np.dtype(embedding.numbers).itemsize
    for index, target in enumerate(targets):
        tracks = (target.sequence is not None) + (target.structure_tokens is not None)
        own = width * tracks * (target.length if embedding.pool == "none" else 1)
        if index > start and (index - start == PROTEINS_PER_PART or size + own > BYTES_PER_PART):
            yield range(start, index)
            start, size = index, 0
        size += own
    yield range(start, len(targets))


def read_embeddings(path: Path) -> pa.Table:
    """The table of a folder of `embed_folder`, or of one of its files.

    Raises
    ------
    DPLM2Error
        If there is none, or one is damaged.
    """
    from dplm2.structures.store import parts_found

    files = parts_found(path) if path.is_dir() else [path]
    if not files:
        raise DPLM2Error(f"{path}: no part-*.parquet; create it with 'dplm2 embed'")
    return pa.concat_tables([parquet.read_table(file).replace_schema_metadata(None) for file in files])
