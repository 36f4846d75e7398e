"""Data of the 3-D viewer: C-alpha traces of selected samples, each superimposed on its reference."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from dplm2.evaluation.metrics import design, structure
from dplm2.report.labels import number
from dplm2.report.results import Evaluation, Results, read_table

CA = 1
FACTS = (
    design.SC_TM, design.SC_RMSD, structure.TM_SCORE, structure.CA_RMSD, design.MOTIF_RMSD, design.RECOVERY,
    structure.PLDDT,
)  # fmt: skip
NATIVE = "native structure"
FOLDED_FILE = "folded.parquet"


def chosen_samples(results: Results, most: int) -> list[dict]:
    """At most ``most`` samples for the viewer, as plain values for JSON.

    From each evaluation of samples the best, the median and the worst by scTM (or TM-score) are taken in turn. Each has
    ``label``, ``facts`` (pairs of text) and ``traces``: one or two of ``name``, ``points`` (x, y, z of each C-alpha, or
    null where it is missing) and ``plddt`` (per residue, or null). The second trace is superimposed on the first.
    """
    queues = [list(_ranked(evaluation)) for evaluation in results.evaluations if evaluation.kind != "reconstruction"]
    turns = [pick for turn in zip_longest(*queues) for pick in turn if pick is not None]
    shown = []
    natives = _Natives(results.folder / "structures")
    for start in range(0, len(turns), max(most, 1)):
        # A sample without structures is replaced by the next.
        for evaluation, rows in _by_evaluation(turns[start : start + most]):
            shown += _entries(results.folder, evaluation, rows, natives)
        if len(shown) >= most:
            break
    return shown[:most]


def _ranked(evaluation: Evaluation) -> Iterator[tuple[Evaluation, pd.Series]]:
    metrics = evaluation.succeeded()
    score = next((name for name in ("sc_tm", "tm_score") if name in metrics), None)
    if score is None or "sample_id" not in metrics:
        return
    metrics = metrics[metrics[score].notna()].sort_values(score, ascending=False)
    last = len(metrics) - 1
    picks = {0: "best", last // 2: "median", last: "worst"} if last > 1 else {0: "best", last: "worst"}
    for place, word in picks.items() if last > 0 else [(0, "only sample")][: len(metrics)]:
        yield evaluation, metrics.iloc[place].copy().rename(word)


def _by_evaluation(turns: Iterable[tuple[Evaluation, pd.Series]]) -> Iterator[tuple[Evaluation, list[pd.Series]]]:
    places: dict[str, tuple[Evaluation, list[pd.Series]]] = {}
    for evaluation, row in turns:
        places.setdefault(evaluation.place, (evaluation, []))[1].append(row)
    yield from places.values()


class _Natives:
    """Chains of the datasets, read on demand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The C-alpha traces of the existing chains."""
        found: dict[str, np.ndarray] = {}
        for part in sorted(self._folder.glob("*/part-*.parquet")):
            wanted = set(names) - set(found)
            if not wanted:
                break
            found |= _backbones(part, "chain_id", wanted)
        return {name: backbone for name, (backbone, _) in found.items()}


def _backbones(path: Path, key: str, wanted: set[str]) -> dict[str, tuple[np.ndarray, list[float] | None]]:
    """C-alpha traces (L, 3) and pLDDT of the named rows of a Parquet file; nothing if there is no file."""
    if not path.is_file():
        return {}
    table = read_table(path, [key, "backbone", "plddt", "tokenizer_plddt"])
    if key not in table.column_names or "backbone" not in table.column_names:
        return {}
    found = {}
    for index, name in enumerate(table[key].to_pylist()):
        if name in wanted and table["backbone"][index].as_py():
            backbone = np.asarray(table["backbone"][index].as_py(), dtype=np.float64).reshape(-1, 4, 3)
            columns = [column for column in ("plddt", "tokenizer_plddt") if column in table.column_names]
            found[name] = backbone[:, CA], next((table[column][index].as_py() for column in columns), None)
    return found


def _entries(folder: Path, evaluation: Evaluation, rows: list[pd.Series], natives: _Natives) -> Iterator[dict]:
    ids = {str(row["sample_id"]) for row in rows}
    model, task = (evaluation.place.split("/") + [""])[:2]
    samples = _backbones(folder / "samples" / model / task / "samples.parquet", "sample_id", ids)
    folded = _backbones(evaluation.folder / FOLDED_FILE, "sample_id", ids)
    compares_natives = evaluation.kind in ("folding", "inverse-folding")
    known = natives.find([str(row.get("problem", "")) for row in rows]) if compares_natives else {}
    for row in rows:
        name, native = str(row["sample_id"]), known.get(str(row.get("problem", "")))
        pair = _pair(evaluation, samples.get(name), folded.get(name), native)
        if pair:
            yield {
                "label": f"{evaluation.model}, {evaluation.task}: {name} ({row.name})",
                "facts": _facts(row, len(pair[0][1])),
                "traces": _superimposed(pair),
            }


def _pair(evaluation: Evaluation, sample, folded, native) -> list[tuple[str, np.ndarray, list[float] | None]]:
    """The traces to superimpose: name, trace and confidence, the fixed one first; a native alone is not shown."""
    backend = evaluation.backend if evaluation.backend not in ("", "none") else "the folding program"
    pair = []
    if evaluation.kind in ("folding", "inverse-folding"):
        if native is not None:
            pair.append((NATIVE, native, None))
        if evaluation.kind == "folding" and sample is not None:
            pair.append(("predicted structure", *sample))
    elif sample is not None:
        pair.append(("generated structure", *sample))
    if folded is not None and evaluation.kind != "folding":
        pair.append((f"its sequence, folded by {backend}", *folded))
    return [] if [name for name, *_ in pair] == [NATIVE] else pair


def _facts(row: pd.Series, length: int) -> list[list[str]]:
    facts = [["length", f"{length} residues"]]
    for metric in FACTS:
        value = row.get(metric.name)
        if isinstance(value, float | np.floating) and np.isfinite(value):
            facts.append([metric.title, number(float(value)) + metric.suffix])
    return facts


def _superimposed(pair: list[tuple[str, np.ndarray, list[float] | None]]) -> list[dict]:
    fixed = pair[0][1]
    center, axes = _longest_first(fixed)
    traces = []
    for name, points, plddt in pair:
        if points is not fixed and len(points) == len(fixed):
            points = _superimpose(points, fixed)
        seen = (points - center) @ axes
        rounded = [None if not np.isfinite(p).all() else [round(float(x), 1) for x in p] for p in seen]
        traces.append({"name": name, "points": rounded, "plddt": None if plddt is None else _rounded(plddt)})
    return traces


def _rounded(plddt: Sequence[float | None]) -> list[int | None]:
    return [None if value is None or not np.isfinite(value) else round(float(value)) for value in plddt]


def _longest_first(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centre, and a rotation of the longest extent across the view and the shortest along it."""
    observed = points[np.isfinite(points).all(1)]
    center = observed.mean(0) if len(observed) else np.zeros(3)
    axes = np.linalg.svd(observed - center, full_matrices=True)[2].T if len(observed) else np.eye(3)
    if np.linalg.det(axes) < 0:  # never a mirror image
        axes[:, 2] *= -1
    return center, axes


def _superimpose(mobile: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    import torch

    from dplm2.geometry.superposition import move, superpose

    observed = np.isfinite(mobile).all(1) & np.isfinite(fixed).all(1)
    one, two, weight = (torch.from_numpy(np.asarray(a, dtype=np.float64))[None] for a in (mobile, fixed, observed))
    return move(one, *superpose(one, two, weight))[0].numpy()
