"""The designs of a task in one ranked table, and the best of them as structure files.

Reads what generation and evaluation wrote, and writes into a folder of its own.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dplm2.core import parquet
from dplm2.core.artifacts import RUN_FILE, RunRecord, make_folder, read_json_object, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import write_fasta
from dplm2.evaluation.benchmarks.job import FOLDED_FILE
from dplm2.evaluation.metrics.registry import declared
from dplm2.evaluation.ranking import FAILED, PASSES, RANK, SCORE, Ranking, rank
from dplm2.generation.designs import ENDINGS, FASTA_FILE, TABLE_FILE, remove_others, write_backbone, write_table
from dplm2.generation.samples import SAMPLES_FILE, STRUCTURES_FOLDER, read_samples
from dplm2.geometry.superposition import superposed
from dplm2.settings.designs import RankingSettings
from dplm2.settings.roles import plain
from dplm2.structures.writing import write_structure

BEST_FOLDER, BEST_FASTA = "best", "best.fasta"
METRICS_FILE = "metrics.parquet"
IN_HEADERS = ("sc_tm", "sc_rmsd", "plddt", "motif_rmsd")  # metrics in the headers of FASTA files


def rank_designs(samples: Path, evaluation: Path, out: Path, settings: RankingSettings) -> Ranking:
    """Join samples with their metrics, rank them, and write the table.

    Writes ``designs.csv``, ``designs.fasta``, ``best/`` (structures, predictions and ``best.fasta``) and ``run.json``.

    Parameters
    ----------
    samples
        Folder with ``samples.parquet``, and perhaps ``structures/``.
    evaluation
        Folder with ``metrics.parquet``, ``run.json`` and, if a folding program was used, ``folded.parquet``.
    out
        Folder to write.
    settings
        Weights, thresholds, and how many are the best.

    Raises
    ------
    DPLM2Error
        If a file is missing or damaged, or the two folders are not of the same samples.
    """
    sources = {"samples": samples / SAMPLES_FILE, "metrics": evaluation / METRICS_FILE}
    folded = _folded(evaluation / FOLDED_FILE)
    if folded:
        sources["folded"] = evaluation / FOLDED_FILE
    rows = {row["sample_id"]: row for row in read_samples(samples).to_pylist()}
    metrics = parquet.read_frame(sources["metrics"])
    inputs = {name: sha256_of_file(path) for name, path in sources.items()}
    record = RunRecord("rank", plain(settings), inputs)
    record.supersede(out)
    table = _joined(rows, metrics, folded, _left_out(evaluation), evaluation)
    ranking = rank(table, settings, next(iter(rows.values()))["task"])
    best = _best(ranking, settings.best)
    files, predictions = _write_best(out / BEST_FOLDER, best, rows, folded, ENDINGS[settings.format])
    structures = _structures(samples / STRUCTURES_FOLDER, out)
    first = [RANK, "id", "problem", "length", PASSES, SCORE, *ranking.weights]
    ranked = ranking.table
    ranked = ranked[list(dict.fromkeys([*first, *ranked]))].assign(
        file=[files.get(name) or structures.get(name) for name in ranked["id"]],
        prediction=[predictions.get(name) for name in ranked["id"]],
    )
    write_table(out / TABLE_FILE, ranked)
    write_fasta(out / FASTA_FILE, _records(ranked))
    chosen = ranked.set_index("id").loc[best].reset_index()
    write_fasta(out / BEST_FOLDER / BEST_FASTA, _records(chosen))
    passing = int(ranked[PASSES].sum())
    record.write(
        out, designs=len(ranked), passing=passing, best=best, weights=dict(ranking.weights), missing=ranking.missing
    )
    return Ranking(ranked, ranking.weights, ranking.missing)


def summary_of(ranking: Ranking, out: Path, settings: RankingSettings) -> str:
    """What was ranked, in a few lines for the terminal."""
    table = ranking.table
    lines = []
    if ranking.missing:
        lines.append(f"not measured here, left out of the ranking: {', '.join(ranking.missing)}")
    if not ranking.weights:
        lines.append("not ranked: no design has a metric of evaluation.ranking.weights; the order is that of sampling")
    passing, failed = int(table[PASSES].sum()), int(table[FAILED].sum())
    facts = [f"{len(table) - failed} {'ranked' if ranking.weights else 'evaluated'}"]
    if settings.at_least or settings.at_most:
        facts.append(f"{passing} within the thresholds")
    if failed:
        facts.append(f"{failed} without metrics, see the column failure")
    lines.append(f"designs: {out / TABLE_FILE} ({', '.join(facts)})")
    if settings.best and ranking.weights:
        lines.append(f"best: {out / BEST_FOLDER} ({min(settings.best, passing)})")
    return "\n".join(lines)


def _left_out(evaluation: Path) -> dict[str, str]:
    """Samples that were not evaluated, with the reason."""
    found = read_json_object(evaluation / RUN_FILE).get("left_out")
    return found if isinstance(found, dict) else {}


def _folded(path: Path) -> dict[str, Mapping[str, Any]]:
    """The folding program's prediction for each sample."""
    return {row["sample_id"]: row for row in parquet.read_table(path).to_pylist()} if path.is_file() else {}


def _joined(
    rows: Mapping[str, Mapping[str, Any]],
    metrics: pd.DataFrame,
    folded: Mapping[str, Mapping[str, Any]],
    left_out: Mapping[str, str],
    evaluation: Path,
) -> pd.DataFrame:
    """A row per sample: what generation knows of it, its metrics, its sequence."""
    known = set(metrics["sample_id"])
    if strangers := sorted(known - set(rows)):
        raise DPLM2Error(
            f"{evaluation}: evaluated other samples than these ({strangers[0]} is none); evaluate them again"
        )
    if unknown := [name for name in rows if name not in known and name not in left_out]:
        raise DPLM2Error(f"{evaluation}: lacks {len(unknown)} of the samples ({unknown[0]}, ...); evaluate them again")
    own = pd.DataFrame([_described(row, folded.get(name)) for name, row in rows.items()])
    own = own.drop(columns=[name for name in own if name in metrics and name not in ("id", "problem", "length")])
    values = metrics.drop(columns=["model", "task", "problem", "length"], errors="ignore")
    joined = own.merge(values.rename(columns={"sample_id": "id"}), on="id", how="left", sort=False)
    joined[FAILED] = [
        name not in known or bool(failed) for name, failed in zip(joined["id"], joined[FAILED], strict=True)
    ]
    given = joined["failure"] if "failure" in joined else pd.Series(None, index=joined.index, dtype=object)
    joined["failure"] = [left_out.get(name, reason) for name, reason in zip(joined["id"], given, strict=True)]
    last = [name for name in (FAILED, "failure", "backend", "sequence") if name in joined]
    measured = [name for name in joined if name not in ("id", "problem", "length", *last)]
    return joined[["id", "problem", "length", *measured, *last]]


def _described(row: Mapping[str, Any], folded: Mapping[str, Any] | None) -> dict[str, Any]:
    plddt = row["tokenizer_plddt"]
    return {
        "id": row["sample_id"],
        "problem": row["problem"],
        "length": row["length"],
        "tokenizer_plddt": np.nan if plddt is None else float(np.mean(plddt)),
        "log_likelihood": np.nan if row["log_likelihood"] is None else row["log_likelihood"],
        # Of a backbone alone: the sequence that was designed for it.
        "sequence": row["sequence"] or (folded["sequence"] if folded else None),
    }


def _best(ranking: Ranking, most: int) -> list[str]:
    table = ranking.table
    return table["id"][table[PASSES] & table[RANK].notna()].head(most).tolist()


def _write_best(
    folder: Path,
    best: Iterable[str],
    rows: Mapping[str, Mapping[str, Any]],
    folded: Mapping[str, Mapping[str, Any]],
    ending: str,
) -> tuple[dict[str, str], dict[str, str]]:
    """Write the structures of the best designs; paths of structures and predictions, relative to the table."""
    make_folder(folder)
    files, predictions = {}, {}
    for place, name in enumerate(best, 1):
        if rows[name]["backbone"] is not None:
            files[name] = f"{place:03d}_{name}.{ending}"
        if name in folded:
            predictions[name] = f"{place:03d}_{name}_folded.{ending}"
    remove_others(folder, [*files.values(), *predictions.values()])
    for name, file in files.items():
        write_backbone(folder / file, rows[name])
    for name, file in predictions.items():
        _write_prediction(folder / file, folded[name], rows[name])
    return tuple({name: f"{BEST_FOLDER}/{file}" for name, file in each.items()} for each in (files, predictions))


def _write_prediction(path: Path, folded: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Write a prediction superimposed on the design, if that has a structure."""
    backbone = np.array(folded["backbone"], dtype=np.float32).reshape(-1, 4, 3)
    if row["backbone"] is not None:
        backbone = superposed(backbone, np.array(row["backbone"], dtype=np.float32).reshape(-1, 4, 3))
    plddt = None if folded["plddt"] is None else np.array(folded["plddt"], dtype=np.float32)
    write_structure(path, folded["sequence"], backbone, plddt)


def _structures(folder: Path, out: Path) -> dict[str, str]:
    """The structure files that generation wrote, by sample, relative to ``out``."""
    files = (file for ending in ENDINGS.values() for file in sorted(folder.glob(f"*.{ending}")))
    return {file.stem: Path(os.path.relpath(file, out)).as_posix() for file in files}


def _records(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Headers and sequences for FASTA, in the order of the table."""
    for row in table.to_dict("records"):
        if not row["sequence"]:
            continue
        facts = {} if pd.isna(row[RANK]) else {RANK: row[RANK], SCORE: f"{row[SCORE]:.4g}"}
        facts |= {"problem": row["problem"], "length": row["length"]}
        measured = [name for name in IN_HEADERS if name in row and not pd.isna(row[name]) and declared(name)]
        facts |= {name: f"{row[name]:.4g}" for name in measured}
        yield " ".join([row["id"], *(f"{key}={value}" for key, value in facts.items())]), row["sequence"]
