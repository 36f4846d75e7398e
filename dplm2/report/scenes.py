"""The samples that the viewer shows: of each task the best, the median and the worst, with what they are compared with.

Array axes: L residues, A atoms (N, CA, C, O), X Cartesian coordinates in angstrom.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from dplm2.evaluation.benchmarks.job import FOLDED_FILE
from dplm2.evaluation.benchmarks.reconstruction import RECONSTRUCTED_FILE
from dplm2.evaluation.metrics import design, structure
from dplm2.generation.samples import SAMPLES_FILE
from dplm2.report.labels import number
from dplm2.report.results import PARTS, Evaluation, Results, read_table
from dplm2.viewer.scenes import CA, Scene, Structure, aligned, deviation

DOT = " \u00b7 "
FACTS = (
    design.SC_TM, design.SC_RMSD, structure.TM_SCORE, structure.CA_RMSD, structure.LDDT_CA, design.MOTIF_RMSD,
    design.RECOVERY, structure.PLDDT,
)  # fmt: skip
GIVEN = ("folding", "inverse-folding")  # tasks whose samples are compared with the native chain
FIRST_RANKS = (0, 1, 2)
NATIVE = "native structure"
COLUMNS = ("backbone", "native_backbone", "sequence", "plddt", "tokenizer_plddt", "motif_positions", "lddt")


@dataclass(frozen=True)
class Picked:
    """A sample with its structures.

    Attributes
    ----------
    evaluation
        That it is a sample of.
    name
        Its id.
    place
        Why it was picked: its rank, or best, median, worst.
    structures
        One, or two of the same length; the last one is that in question.
    row
        Its metrics.
    lddt
        (L,) of a reconstruction.
    """

    evaluation: Evaluation
    name: str
    place: str
    structures: Sequence[Structure]
    row: Mapping[str, Any] = field(default_factory=dict)
    lddt: np.ndarray | None = None

    @property
    def key(self) -> str:
        """By which a link chooses the sample in the viewer."""
        return key_of(*_names(self.evaluation), self.name)

    @property
    def plddt(self) -> np.ndarray | None:
        """(L,) of the structure that has one."""
        return next((np.asarray(s.plddt, dtype=float) for s in self.structures if s.plddt is not None), None)

    def deviation(self) -> np.ndarray | None:
        """Distances (L,) of the C-alpha atoms of the two superposed structures; None if there is one."""
        backbones = [np.asarray(each.backbone, dtype=float) for each in self.structures]
        if len(backbones) != 2 or len(backbones[0]) != len(backbones[1]):
            return None
        return deviation(*aligned(backbones))

    def scene(self) -> Scene:
        """As the viewer shows it."""
        facts = [("length", f"{len(self.structures[-1].backbone)} residues")]
        for metric in FACTS:
            value = self.row.get(metric.name)
            if isinstance(value, float | np.floating) and np.isfinite(value):
                facts.append((metric.title, number(float(value)) + metric.suffix))
        group = DOT.join(dict.fromkeys(filter(None, (self.evaluation.model, self.evaluation.task, _set(self)))))
        return Scene(f"{self.name} ({self.place})", self.structures, facts, self.key, group=group)


def key_of(model: str, task: str, name: str) -> str:
    """The key of a sample in the viewer."""
    return f"{model}/{task}/{name}"


def _names(evaluation: Evaluation) -> tuple[str, str]:
    """Folders of model and task."""
    return tuple((evaluation.place.split("/") + [""])[:2])


def _set(picked: Picked) -> str:
    return picked.evaluation.dataset if picked.evaluation.kind == "reconstruction" else ""


def picked_samples(results: Results, most: int) -> list[Picked]:
    """At most ``most`` samples, grouped by evaluation: designs first, reconstructions of the tokenizer last."""
    order = [each for each in results.evaluations if each.kind != "reconstruction" and each.variant != "untrained"]
    order += [each for each in results.evaluations if each.kind == "reconstruction" and each.variant != "untrained"]
    ranks = {(each.model, each.task): each.table["id"].tolist() for each in results.designs}
    queues = [_places(evaluation, ranks.get(_names(evaluation), [])) for evaluation in order]
    natives = _Natives(results.folder / "structures")
    found: dict[int, list[Picked]] = {}
    left = most
    # Each evaluation in turn; a sample without structures is replaced by the next.
    for turn in zip_longest(*queues):
        wanted = [(i, pick) for i, pick in enumerate(turn) if pick is not None][: max(left, 0)]
        for i, (name, place) in wanted:
            one = _picked(results.folder, order[i], name, place, natives)
            if one is not None:
                found.setdefault(i, []).append(one)
                left -= 1
    return [one for i in sorted(found) for one in found[i]]


def _places(evaluation: Evaluation, ranked: Sequence[str]) -> list[tuple[str, str]]:
    """Samples worth a look, the most important first, each with the reason."""
    if evaluation.kind == "reconstruction":
        path = evaluation.folder / RECONSTRUCTED_FILE
        return _extremes(read_table(path, ["sample_id"])["sample_id"].to_pylist()) if path.is_file() else []
    metrics = evaluation.succeeded()
    if "sample_id" not in metrics:
        return []
    known = set(metrics["sample_id"])
    if order := [name for name in ranked if name in known]:
        places = dict.fromkeys([*FIRST_RANKS, len(order) // 2, len(order) - 1])
        return [(order[i], f"rank {i + 1} of {len(order)}") for i in places if 0 <= i < len(order)]
    score = next((name for name in ("sc_tm", "tm_score") if name in metrics), None)
    if score is None:
        return []
    metrics = metrics[metrics[score].notna()].sort_values(score, ascending=False, kind="stable")
    return _extremes(metrics["sample_id"].tolist())


def _extremes(ordered: Sequence[str]) -> list[tuple[str, str]]:
    last = len(ordered) - 1
    if last <= 0:
        return [(name, "only sample") for name in ordered]
    places = {0: "best", last: "worst"} if last == 1 else {0: "best", last // 2: "median", last: "worst"}
    return [(ordered[i], word) for i, word in places.items()]


class _Natives:
    """Chains of the datasets, read on demand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> dict[str, Any] | None:
        """The named chain; None if no dataset has it."""
        parts = sorted(self._folder.glob(f"*/{PARTS}"))
        return next((found for part in parts if (found := _row(part, "chain_id", name))), None)


def _row(path: Path, key: str, name: str) -> dict[str, Any] | None:
    """The structure of the named row of a Parquet file: its backbones as arrays (L, 4, 3); None if there is none."""
    if not path.is_file():
        return None
    table = read_table(path, [key, *COLUMNS])
    if key not in table.column_names or "backbone" not in table.column_names:
        return None
    rows = table.filter(pc.equal(table[key], name)).slice(0, 1).to_pylist()
    if not rows or not rows[0]["backbone"]:
        return None
    backbones = {column: rows[0][column] for column in ("backbone", "native_backbone") if rows[0].get(column)}
    return rows[0] | {
        column: np.asarray(values, dtype=np.float64).reshape(-1, 4, 3) for column, values in backbones.items()
    }


def _picked(folder: Path, evaluation: Evaluation, name: str, place: str, natives: _Natives) -> Picked | None:
    if evaluation.kind == "reconstruction":
        row = _row(evaluation.folder / RECONSTRUCTED_FILE, "sample_id", name)
        structures = [] if row is None else list(_reconstruction(row))
    else:
        structures = list(_compared(folder, evaluation, name, natives))
    # A native alone, or a structure without a residue, is not worth showing.
    if not any(np.isfinite(each.backbone[:, CA]).any() for each in structures if each.name != NATIVE):
        return None
    metrics = evaluation.metrics
    rows = metrics[metrics["sample_id"] == name] if "sample_id" in metrics else metrics
    lddt = np.asarray(row["lddt"], dtype=float) if evaluation.kind == "reconstruction" else None
    return Picked(evaluation, name, place, structures, rows.iloc[0].to_dict() if len(rows) else {}, lddt)


def _reconstruction(row: Mapping[str, Any]) -> Iterator[Structure]:
    yield Structure(NATIVE, row["native_backbone"], row["sequence"])
    yield Structure("reconstruction", row["backbone"], row["sequence"])


def _compared(folder: Path, evaluation: Evaluation, name: str, natives: _Natives) -> Iterator[Structure]:
    """The structures of a sample, that in question last: of a design with a confident prediction, the prediction."""
    sample = _row(folder.joinpath("samples", *_names(evaluation), SAMPLES_FILE), "sample_id", name)
    folded = _row(evaluation.folder / FOLDED_FILE, "sample_id", name)
    backend = evaluation.backend if evaluation.backend not in ("", "none") else "the folding program"
    marked = _marked(sample)
    prediction = folded and _structure(f"its sequence, folded by {_spelled(backend)}", folded, marked)
    if evaluation.kind in GIVEN:
        native = natives.find(_problem(evaluation, name))
        if native:
            yield _structure(NATIVE, native)
        if evaluation.kind == "inverse-folding":
            yield from filter(None, [prediction])
        elif sample:
            yield _structure("predicted structure", sample)
        return
    generated = sample and _structure("generated structure", sample, marked)
    pair = [each for each in (prediction, generated) if each is not None]
    yield from reversed(pair) if prediction is not None and prediction.plddt is not None else pair


def _spelled(backend: str) -> str:
    return "the model itself" if backend == "self" else backend


def _problem(evaluation: Evaluation, name: str) -> str:
    metrics = evaluation.metrics
    rows = metrics[metrics["sample_id"] == name]
    return str(rows.iloc[0]["problem"]) if "problem" in metrics and len(rows) else ""


def _marked(sample: Mapping[str, Any] | None) -> np.ndarray | None:
    """True (L,) at the residues of the motif."""
    if sample is None or not sample.get("motif_positions"):
        return None
    marked = np.zeros(len(sample["backbone"]), dtype=bool)
    marked[np.asarray(sample["motif_positions"], dtype=int)] = True
    return marked


def _structure(name: str, row: Mapping[str, Any], marked: np.ndarray | None = None) -> Structure:
    plddt = next((row[column] for column in ("plddt", "tokenizer_plddt") if row.get(column)), None)
    # The pLDDT of a native is that of the file it came from: not of what is judged here.
    return Structure(name, row["backbone"], row.get("sequence") or "", None if name == NATIVE else plddt, marked)
