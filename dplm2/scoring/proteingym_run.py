"""A folder of ProteinGym scores: assay by assay, resumed after an interruption.

``scores/<DMS_id>.csv`` (mutant, DMS_score, score), ``summary.csv`` (a row per assay), ``run.json``.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dplm2.core.artifacts import RunRecord, fingerprint, read_json_object, sha256_of_file, write_json, write_text
from dplm2.core.errors import DPLM2Error
from dplm2.core.names import file_names
from dplm2.evaluation.metrics.prediction import area_under_curve, correlation
from dplm2.generation.model import DPLM2
from dplm2.scoring.effects import mutant_scores
from dplm2.scoring.proteingym import Assay, average, read_assay, target_of
from dplm2.scoring.queries import Reading

SCORES_FOLDER, SUMMARY_FILE = "scores", "summary.csv"


def score_assays(
    model: DPLM2,
    assays: Sequence[Assay],
    folder: Path,
    structures: Path | None,
    reading: Reading,
    out: Path,
    reference: Path,
) -> tuple[pd.DataFrame, float]:
    """Score all mutants of assays, and correlate the scores with the measurements.

    Parameters
    ----------
    model
        The language model.
    assays
        From `dplm2.scoring.proteingym.read_reference`, of the table ``reference``.
    folder
        Folder of the assays' tables.
    structures
        Folder of their structures, which are given to the model; None: sequences alone.
    reading
        How mutated residues are read.
    out
        Folder to write. An assay that an earlier run scored with the same model, settings and files is not scored
        again.

    Returns
    -------
    tuple
        The rows of ``summary.csv`` and ProteinGym's average Spearman correlation.

    Raises
    ------
    DPLM2Error
        If a file cannot be used. All assays are checked before any is scored.
    """
    settings = {"marginals": reading.marginals, "window": reading.window, "structures": structures is not None}
    inputs = {"model": model.fingerprint, "reference": sha256_of_file(reference)}
    record = RunRecord("score proteingym", settings, inputs, model.network.device.type)
    for assay in assays:
        read_assay(assay, folder)
    record.supersede(out, SUMMARY_FILE)
    rows = []
    for assay, name in zip(assays, file_names([assay.name for assay in assays]), strict=True):
        table = _scored(model, assay, folder, structures, reading, out / SCORES_FOLDER / f"{name}.csv")
        rows.append(_summary_row(assay, table))
    summary = pd.DataFrame(rows)
    mean = average(summary, "spearman")
    write_text(out / SUMMARY_FILE, summary.to_csv(index=False))
    record.write(out, assays=len(rows), average_spearman=mean, average_auc=average(summary, "auc"))
    return summary, mean


def _scored(
    model: DPLM2, assay: Assay, folder: Path, structures: Path | None, reading: Reading, path: Path
) -> pd.DataFrame:
    """The table of an assay's scores: that of an earlier run if it fits, else made and written."""
    files = [folder / assay.file, *(structures / name for name, _, _ in assay.structures if structures)]
    if missing := [file for file in files if not file.is_file()]:
        raise DPLM2Error(f"{missing[0]}: no such file ({assay.name})")
    decisive = [model.fingerprint, reading.marginals, reading.window, assay.target, assay.structures]
    made_from = fingerprint([*decisive, *map(sha256_of_file, files)])
    note = path.with_suffix(".json")
    if _is_finished(path, note, made_from):
        print(f"{assay.name}: already finished")
        return pd.read_csv(path, keep_default_na=False, float_precision="round_trip")
    measured = read_assay(assay, folder)
    scores = mutant_scores(model, target_of(model, assay, structures), measured.mutants, reading, assay.name)
    table = pd.DataFrame({"mutant": measured.texts, "DMS_score": measured.scores, "score": scores})
    if measured.fit is not None:
        table.insert(2, "DMS_score_bin", measured.fit)
    write_text(path, table.to_csv(index=False))
    write_json(note, {"made_from": made_from, "sha256": sha256_of_file(path)})
    return table


def _is_finished(path: Path, note: Path, made_from: str) -> bool:
    if not path.is_file() or not note.is_file():
        return False
    try:
        return read_json_object(note) == {"made_from": made_from, "sha256": sha256_of_file(path)}
    except DPLM2Error:  # damaged: scored again
        return False


def _summary_row(assay: Assay, table: pd.DataFrame) -> dict:
    scores, measured = table["score"].to_numpy(float), table["DMS_score"].to_numpy(float)
    fit = table["DMS_score_bin"].to_numpy(float) if "DMS_score_bin" in table else None
    return {
        "DMS_id": assay.name,
        "UniProt_ID": assay.protein,
        "coarse_selection_type": assay.selection,
        "mutants": len(table),
        "spearman": correlation(scores, measured),
        "auc": float("nan") if fit is None else area_under_curve(scores, fit > 0),
    }
