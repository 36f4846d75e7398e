"""Benchmark of the structure tokenizer: chains encoded, decoded and compared with themselves (DPLM-2, figure 2A)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from tqdm import tqdm

from dplm2.core import parquet
from dplm2.core.artifacts import RunRecord
from dplm2.core.errors import DPLM2Error
from dplm2.core.hub import name_of
from dplm2.evaluation.benchmarks.job import dataset_name, set_name
from dplm2.evaluation.comparison import compare
from dplm2.evaluation.metrics.structure import COMPARED, COMPOSITION, LDDT_CA
from dplm2.evaluation.metrics.tokenizer import CODEBOOK, of_weights
from dplm2.evaluation.results import Source, describe, summarize, summary_row, write_results
from dplm2.geometry.backbone import observed_residues
from dplm2.geometry.lddt import lddt_of_residues
from dplm2.geometry.secondary_structure import fractions
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.settings.roles import plain
from dplm2.structures import store
from dplm2.tokenizer.codebook import codebook_use
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.tokenizer.tokens import read_tokens

TASK = "reconstruction"
NATIVE = "native_"
RECONSTRUCTED_FILE = "reconstructed.parquet"
MOST_KEPT = 9  # chains whose reconstructions are kept: of a large set, all would be a second copy of it
_KEPT = pa.schema(
    [
        ("sample_id", pa.string()),
        ("sequence", pa.string()),
        ("native_backbone", pa.list_(pa.float32())),
        ("backbone", pa.list_(pa.float32())),
        ("lddt", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class ReconstructionJob:
    """One evaluation of a tokenizer.

    Attributes
    ----------
    tokenizer
        Folder or hub id.
    chains
        Dataset folders.
    out
        Folder to write to.
    settings
        Of evaluation.
    split
        Only chains of this split.
    untrained
        Random weights of the same architecture instead of the trained ones, for comparison.
    tokens
        Existing tokens of the chains: then nothing is encoded.
    name
        The tokenizer's in the tables; its folder's by default.
    seed, device
        Seed of the random weights; where the networks run.
    """

    tokenizer: str
    chains: tuple[Path, ...]
    out: Path
    settings: EvaluationSettings
    split: str | None = None
    untrained: bool = False
    tokens: tuple[Path, ...] = ()
    name: str | None = None
    seed: int = 0
    device: str = "cpu"


def run(job: ReconstructionJob) -> int:
    """Reconstruct every chain and measure; returns the exit status."""
    tokenizer = StructureTokenizer.from_pretrained(job.tokenizer, job.device)
    if job.untrained:
        torch.manual_seed(job.seed)
        tokenizer = StructureTokenizer(tokenizer.settings, tokenizer.confidence_trained).to(job.device).eval()
    record = RunRecord(f"evaluate {TASK}", plain(job.settings), {"tokenizer": tokenizer.fingerprint}, job.device)
    columns = ["chain_id", "sequence", "backbone", "split"]
    table = store.read_chains([str(path) for path in job.chains], columns=columns, split=job.split)
    names, splits = table["chain_id"].to_pylist(), table["split"].to_pylist()
    backbones = [np.asarray(backbone) for backbone in store.backbones(table)]
    chosen, left_out = _chosen(names, backbones, job.settings)
    if not chosen:
        raise DPLM2Error(f"{dataset_name(job.chains)}: no chain to reconstruct (split {job.split or 'any'})")
    made = _tokens_of(job, [names[i] for i in chosen], tokenizer) if job.tokens else None
    natives = [backbones[i] for i in chosen]
    tokens, decoded, metrics = reconstruct(tokenizer, natives, job.settings, job.device, made)
    model = job.name or name_of(job.tokenizer)
    metrics.insert(0, "sample_id", [names[i] for i in chosen])
    metrics.insert(1, "model", model)
    metrics.insert(2, "task", TASK)
    metrics.insert(3, "split", [splits[i] for i in chosen])
    # Composition of the chains themselves, for comparison with designs.
    composition = [fractions(native[:, 1]) for native in natives]
    metrics = pd.concat([metrics, pd.DataFrame(composition).add_prefix(NATIVE)], axis=1)
    observed = [observed_residues(native) for native in natives]
    summary = _summary(job, model, metrics, tokens, observed, tokenizer.codebook_size)
    renamed = metrics.rename(columns=_columns(job))
    if not job.untrained:
        sequences = table["sequence"].to_pylist()
        write_kept(job.out, metrics, [sequences[i] for i in chosen], natives, decoded)
    usage = np.bincount(np.concatenate([t[o] for t, o in zip(tokens, observed, strict=True)]), minlength=1)
    write_results(
        job.out, renamed, summary, record, left_out=left_out, untrained=job.untrained,
        codebook_size=tokenizer.codebook_size, token_counts={int(i): int(usage[i]) for i in np.flatnonzero(usage)},
    )  # fmt: skip
    print(describe(summary))
    print(f"wrote {job.out}")
    return 0


def _columns(job: ReconstructionJob) -> dict[str, str]:
    """Names of metrics with the weights: trained or untrained."""
    weights = "untrained" if job.untrained else "trained"
    return {metric.name: of_weights(metric).column(weights=weights) for metric in (*COMPARED, *CODEBOOK)}


def _chosen(
    names: list[str], backbones: list[np.ndarray], settings: EvaluationSettings
) -> tuple[list[int], dict[str, str]]:
    left_out = {}
    for name, backbone in zip(names, backbones, strict=True):
        length = len(backbone)
        if name in settings.excluded:
            left_out[name] = "excluded by name"
        elif length < settings.min_length or settings.max_length is not None and length > settings.max_length:
            left_out[name] = f"{length} residues"
    return [i for i, name in enumerate(names) if name not in left_out], left_out


def write_kept(
    out: Path, metrics: pd.DataFrame, sequences: list[str], natives: list[np.ndarray], decoded: list[np.ndarray]
) -> None:
    """Write at most `MOST_KEPT` reconstructions beside their natives, for the report: ``reconstructed.parquet``.

    They lie at equal distances between the best and the worst lDDT, in this order; ``lddt`` is that of each residue,
    NaN where the native lacks it.
    """
    ranked = metrics[LDDT_CA.name][~metrics["failed"]].dropna().sort_values(ascending=False, kind="stable").index
    places = np.unique(np.linspace(0, len(ranked) - 1, min(MOST_KEPT, len(ranked))).round().astype(int))
    rows = [
        {
            "sample_id": metrics["sample_id"][i],
            "sequence": sequences[i],
            "native_backbone": natives[i].ravel().tolist(),
            "backbone": decoded[i].ravel().tolist(),
            "lddt": lddt_of_residues(decoded[i][:, 1], natives[i][:, 1]).tolist(),
        }
        for i in ranked[places]
    ]
    parquet.write_table(out / RECONSTRUCTED_FILE, pa.Table.from_pylist(rows, schema=_KEPT))


def _tokens_of(job: ReconstructionJob, names: list[str], tokenizer: StructureTokenizer) -> list[np.ndarray]:
    """Existing tokens (L,) of the named chains."""
    selections = [path / store.SELECTION_FILE for path in job.chains if (path / store.SELECTION_FILE).is_file()]
    table = read_tokens(list(job.tokens), selections=selections or None)
    origin = table.schema.metadata[b"tokenizer_fingerprint"].decode()
    if origin != tokenizer.codes_fingerprint:
        raise DPLM2Error(
            f"--tokens: these are tokens of {origin}, the tokenizer given is {tokenizer.codes_fingerprint}"
        )
    place = {name: row for row, name in enumerate(table["chain_id"].to_pylist())}
    missing = [name for name in names if name not in place]
    if missing:
        raise DPLM2Error(f"--tokens: no tokens for {len(missing)} of the chains, for example {missing[0]}")
    column = table["structure_tokens"]
    return [np.asarray(column[place[name]].as_py(), dtype=np.uint16) for name in names]


def reconstruct(
    tokenizer: StructureTokenizer,
    backbones: list[np.ndarray],
    settings: EvaluationSettings,
    device: str = "cpu",
    made: list[np.ndarray] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray], pd.DataFrame]:
    """Encode and decode backbones (L, 4, 3); tokens ``made`` before are only decoded.

    Returns
    -------
    tokens
        (L,) of each chain.
    decoded
        (L, 4, 3) of each chain.
    metrics
        A row per chain: ``length``, ``failed``, ``failure``, and the metrics of `dplm2.evaluation.comparison.compare`
        over the observed residues of the chain.
    """
    tokens: list[np.ndarray] = [np.empty(0)] * len(backbones)
    decoded: list[np.ndarray] = [np.empty(0)] * len(backbones)
    # Chains of similar length together: little of a batch is padding.
    order = sorted(range(len(backbones)), key=lambda index: len(backbones[index]))
    for start in tqdm(range(0, len(order), settings.batch_size), desc="reconstruct", disable=None):
        batch = order[start : start + settings.batch_size]
        codes = tokenizer.encode([backbones[i] for i in batch]) if made is None else [made[i] for i in batch]
        for index, code, result in zip(batch, codes, tokenizer.decode(codes), strict=True):
            tokens[index], decoded[index] = code, result.backbone
    failed = [not np.isfinite(prediction[:, 1]).all() for prediction in decoded]
    values = compare(decoded, backbones, settings.released_tm_score, device)
    metrics = pd.DataFrame({"length": [len(backbone) for backbone in backbones], "failed": failed})
    metrics["failure"] = ["the decoded structure is not finite" if bad else None for bad in failed]
    return tokens, decoded, metrics.assign(**values)


def _summary(
    job: ReconstructionJob,
    model: str,
    metrics: pd.DataFrame,
    tokens: list[np.ndarray],
    observed: list[np.ndarray],
    codebook_size: int,
) -> list[dict]:
    """Rows for each split of the dataset on its own."""
    name, names, rows = dataset_name(job.chains), _columns(job), []
    splits = list(dict.fromkeys(metrics["split"]))
    for split in splits:
        chosen = metrics["split"].isna() if split is None else metrics["split"] == split
        source = Source(model, TASK, set_name(name, split, len(splits) > 1 or job.split is not None))
        part = metrics[chosen].rename(columns=names)
        columns = [names[metric.name] for metric in COMPARED]
        if not job.untrained:
            columns += [NATIVE + metric.name for metric in COMPOSITION]
        rows += summarize(part, columns, source, job.settings.bootstrap_samples)
        indices = np.flatnonzero(chosen)
        use, perplexity = codebook_use((tokens[i][observed[i]] for i in indices), codebook_size)
        figures = (("codebook_use", use), ("codebook_perplexity", perplexity))
        residues = int(sum(observed[i].sum() for i in indices))
        rows += [summary_row(source, names[column], value, residues) for column, value in figures]
    return rows
