"""Benchmark of the language model as a likelihood: cross-entropy of masked tokens, per track and task.

Three values for each track: the trained model's, the model's before training (after warm-up), and that of a prediction
without context from the token frequencies in the other chains (``unigram``). Each is given as cross-entropy in nats and
as perplexity, its exponential.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from dplm2.core.artifacts import RunRecord, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.core.hub import name_of
from dplm2.evaluation.benchmarks.job import dataset_name, set_name
from dplm2.evaluation.metrics.language import CROSS_ENTROPY, CROSS_ENTROPY_OF_TASK, PERPLEXITY
from dplm2.evaluation.results import Source, describe, summary_row, write_results
from dplm2.language.chains import TokenizedChains
from dplm2.language.likelihood import masked_cross_entropies, pooled, unigram_baseline
from dplm2.language.model_folder import WEIGHTS_FILE, model_folder
from dplm2.language.network import MultimodalEsm
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.settings.model import DiffusionSettings
from dplm2.tokenizer.tokens import read_tokens

TASK = "likelihood"


@dataclass(frozen=True)
class LikelihoodJob:
    """One evaluation of a model.

    Attributes
    ----------
    model, initial
        Folders of the trained model and, if there is one, of the model before training.
    tokens
        Folders of tokens.
    selections
        ``selection.parquet`` files of the datasets.
    out
        Folder to write to.
    split
        Only chains of this split.
    name
        The model's in the tables; its folder's by default.
    seed, device
        Seed of the noise; where the network runs.
    """

    model: str
    tokens: tuple[Path, ...]
    out: Path
    settings: EvaluationSettings
    initial: str | None = None
    selections: tuple[Path, ...] = ()
    split: str | None = None
    name: str | None = None
    seed: int = 0
    device: str = "cpu"


def run(job: LikelihoodJob) -> int:
    """Measure; returns the exit status."""
    table = read_tokens(job.tokens, job.split, job.selections)
    if not len(table):
        raise DPLM2Error(f"{dataset_name(job.tokens)}: contains no tokenized chain (split {job.split or 'any'})")
    networks = {"trained": job.model} | ({"untrained": job.initial} if job.initial else {})
    splits = list(dict.fromkeys(table["split"].to_pylist()))
    name, model = dataset_name(job.tokens), job.name or name_of(job.model)
    summary, details = [], []
    inputs = {label: sha256_of_file(model_folder(folder) / WEIGHTS_FILE) for label, folder in networks.items()}
    record = RunRecord(f"evaluate {TASK}", {"split": job.split, "seed": job.seed}, inputs, job.device)
    for label, folder in networks.items():
        network = MultimodalEsm.from_pretrained(folder, job.device)
        _check_tokenizer(network, table, folder)
        for split in splits:
            source = Source(model, TASK, set_name(name, split, len(splits) > 1 or job.split is not None))
            chains = TokenizedChains(_of_split(table, split), network.vocabulary, DiffusionSettings.make())
            summary += _rows(network, chains, source, label, job.seed, details)
            if label == "trained":
                summary += _track_rows(unigram_baseline(chains), source, "unigram")
    write_results(job.out, pd.DataFrame(details), summary, record)
    print(describe(summary))
    print(f"wrote {job.out}")
    return 0


def _of_split(table: pa.Table, split: str | None) -> pa.Table:
    return table.filter(pa.array([value == split for value in table["split"].to_pylist()]))


def _rows(
    network: MultimodalEsm, chains: TokenizedChains, source: Source, label: str, seed: int, details: list[dict]
) -> list[dict]:
    """Summary rows of one network on one set of chains; each task's figure also goes to ``details``."""
    entries = masked_cross_entropies(network, chains, seed=seed, progress=f"likelihood of {source.dataset} ({label})")
    rows = _track_rows(pooled(entries), source, label)
    for entry in entries:
        name = CROSS_ENTROPY_OF_TASK.column(track=entry.track, network=label, given=entry.task)
        rows.append(summary_row(source, name, entry.value, entry.positions))
        details.append(
            {
                "model": source.model,
                "task": TASK,
                "dataset": source.dataset,
                "network": label,
                "track": entry.track,
                "noising": entry.task,
                "cross_entropy": entry.value,
                "positions": entry.positions,
                "failed": False,
            }  # fmt: skip
        )
    return rows


def _track_rows(entropies: Mapping[str, tuple[float, int]], source: Source, label: str) -> list[dict]:
    """Cross-entropy and perplexity of each track, from its value and number of positions."""
    rows = []
    for track, (value, positions) in entropies.items():
        rows.append(summary_row(source, CROSS_ENTROPY.column(track=track, network=label), value, positions))
        rows.append(summary_row(source, PERPLEXITY.column(track=track, network=label), np.exp(value), positions))
    return rows


def _check_tokenizer(network: MultimodalEsm, table: pa.Table, folder: str) -> None:
    of_tokens = table.schema.metadata[b"tokenizer_fingerprint"].decode()
    if network.tokenizer_fingerprint not in (None, of_tokens):
        raise DPLM2Error(
            f"{folder} was trained on the codes of tokenizer {network.tokenizer_fingerprint}, "
            f"but these tokens are those of {of_tokens}"
        )
