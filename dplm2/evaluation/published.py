"""Comparison with published results: ours, published, difference, and whether it is in our interval.

``dplm2/assets/published.csv`` contains 1,692 published values, each with its source and the certainty of the
transcription (``confidence``). Only results of the same quantity are compared; differences of definition (another
folding program, the released evaluator's TM-score) are shown in the columns ``backend`` and ``metric``.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import pandas as pd

from dplm2.core.artifacts import write_text
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.metrics import design, diversity, structure
from dplm2.evaluation.metrics.metric import Metric
from dplm2.evaluation.metrics.tokenizer import of_weights
from dplm2.evaluation.results import SUMMARY_COLUMNS, rule_note
from dplm2.evaluation.tables import as_latex, write_table

MISSING = "missing"
TABLE_COLUMNS = [
    "task", "dataset", "group", "metric", "statistic", "model", "ours", "low", "high", "published", "difference",
    "in_interval", "published_model", "source", "confidence", "n", "n_failed", "failed_rule", "backend",
]  # fmt: skip
FIGURE_COLUMNS = ["ours", "low", "high", "published", "difference", "in_interval", "n", "n_failed"]
PRINTED_COLUMNS = ["task", "dataset", "group", "metric", "statistic", *FIGURE_COLUMNS]
LATEX_COLUMNS = ["model", "dataset", "group", "metric", "statistic", *FIGURE_COLUMNS]


@dataclass(frozen=True)
class Counterpart:
    """A metric of ours in a task, and its counterpart in the published table.

    Attributes
    ----------
    task, metric
        Of our summaries; parameters of the metric filled in.
    published_task
        In ``published.csv``.
    models
        Spelling of the model in the table; ``{model}`` is the requested name.
    spelling
        The published name of the metric; None: its first.
    also
        Other metrics of ours of the same quantity.
    only
        The requested model to which these values belong, if the table's spelling does not give it; None: any.
    """

    task: str
    metric: Metric
    published_task: str
    models: tuple[str, ...] = ("{model}",)
    spelling: str | None = None
    also: tuple[Metric, ...] = ()
    only: str | None = None

    @property
    def published_metric(self) -> str:
        """The metric's name in ``published.csv``."""
        return self.spelling or next(iter(self.metric.published))

    @property
    def scale(self) -> float:
        """Factor from the published unit to ours."""
        return self.metric.published[self.published_metric]

    @property
    def columns(self) -> list[str]:
        """Names of ours of the same quantity."""
        return [metric.name for metric in (self.metric, *self.also)]


TOKENIZER, ZERO_SHOT = ("LFQ-8k",), ("{model} zero-shot", "{model}")
JOINT, RELEASED = ("{model} co-generation",), ("{model} released ckpt",)
# Table 9 gives no size: 650M is assumed, as in the paper's other tables of designs.
MOTIF, MOTIF_SIZE = ("DPLM-2",), "DPLM-2 650M"
FOLDSEEK = {"program": "foldseek", "cluster_threshold": 0.5}
CLUSTERS = diversity.MAX_CLUSTER.filled(**FOLDSEEK)
DESIGNABLE_CLUSTERS = diversity.of_designable(diversity.MAX_CLUSTER, design.DESIGNABLE_SC_TM).filled(
    **FOLDSEEK, threshold=0.5
)
# Foldseek's scores of pairs are TM-align's.
INNER_TM, INNER_TM_ALSO = (
    diversity.INNER_TM.filled(program="foldseek"), (diversity.INNER_TM.filled(program="tm_align"),),
)  # fmt: skip
SUCCESS = design.SUCCESS.filled(threshold=1)
BACKBONES = "backbone_gen (1 ProteinMPNN seq)"
COUNTERPARTS = (
    *(
        Counterpart(
            "reconstruction", of_weights(metric).filled(weights="trained"), "tokenizer_reconstruction", TOKENIZER
        )
        for metric in (structure.CA_RMSD, structure.TM_SCORE, structure.LDDT_CA)
    ),
    Counterpart("folding", structure.BB_RMSD, "folding", ZERO_SHOT),
    Counterpart("folding", structure.TM_SCORE, "folding", ZERO_SHOT),
    Counterpart("inverse-folding", design.RECOVERY, "inverse_folding"),
    Counterpart("inverse-folding", design.SC_TM, "inverse_folding"),
    Counterpart("co-generation", design.SC_TM, "cogen", JOINT),
    Counterpart("co-generation", design.SC_TM, "ablation_cogen"),
    Counterpart("co-generation", design.SC_RMSD, "cogen", JOINT),
    Counterpart("co-generation", structure.PLDDT, "cogen", JOINT),
    Counterpart("co-generation", diversity.PDB_TM, "cogen", JOINT),
    Counterpart("co-generation", INNER_TM, "cogen", JOINT, also=INNER_TM_ALSO),
    Counterpart("co-generation", DESIGNABLE_CLUSTERS, "cogen", JOINT),
    Counterpart("co-generation", DESIGNABLE_CLUSTERS, "cogen", RELEASED, "foldseek_clusters_of_100"),
    Counterpart("co-generation", DESIGNABLE_CLUSTERS, "ablation_cogen", spelling="clusters_per_100"),
    Counterpart("backbone", design.SC_TM, BACKBONES),
    Counterpart("backbone", design.SC_RMSD, BACKBONES),
    Counterpart("backbone", diversity.PDB_TM, BACKBONES),
    Counterpart("backbone", INNER_TM, BACKBONES, also=INNER_TM_ALSO),
    Counterpart("backbone", DESIGNABLE_CLUSTERS, BACKBONES),
    Counterpart("sequence", structure.PLDDT, "sequence_gen"),
    Counterpart("sequence", diversity.PDB_TM, "sequence_gen"),
    Counterpart("sequence", INNER_TM, "sequence_gen", also=INNER_TM_ALSO),
    # Without a generated structure no sample is designable or not: all are clustered.
    Counterpart("sequence", CLUSTERS, "sequence_gen"),
    Counterpart("scaffolding", SUCCESS, "motif_scaffolding", MOTIF, only=MOTIF_SIZE),
    Counterpart("scaffolding", SUCCESS, "motif_scaffolding", MOTIF, "avg_success_rate", only=MOTIF_SIZE),
    Counterpart("scaffolding", design.PROBLEMS_SOLVED, "motif_scaffolding", MOTIF, only=MOTIF_SIZE),
)
# Datasets without a name in our summaries.
DATASETS = {
    "uncondl100500": "unconditional",
    "uncond": "unconditional",
    "cogeneration": "motifproblems",
}


@cache
def published() -> tuple[dict[str, str], ...]:
    """The rows of ``published.csv``."""
    text = resources.files("dplm2").joinpath("assets/published.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def simplified(name: str) -> str:
    """A dataset's name by its letters and digits alone: ``PDB date`` is ``pdb_date``, and ``pdb_date/test`` too."""
    plain = re.sub("[^a-z0-9]", "", name.lower().removesuffix("/test"))
    return DATASETS.get(plain, plain)


def compare_with_published(summary: pd.DataFrame, model: str | Mapping[str, str]) -> pd.DataFrame:
    """Compare summary rows (with a column ``group``, empty for whole datasets) with the published results of ``model``.

    A result that only one side has gets a row too, in which the other is "missing". For a mapping, each of our models
    is compared with the published one that it names; a model that it does not name has tokenizer results alone.
    """
    if isinstance(model, Mapping):
        parts = [
            compare_with_published(part, model.get(ours, "")) for ours, part in summary.groupby("model", sort=False)
        ]
        parts = [part for part in parts if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=TABLE_COLUMNS)
    rows = []
    for task, dataset in summary[["task", "dataset"]].drop_duplicates().itertuples(index=False):
        ours = summary[(summary["task"] == task) & (summary["dataset"] == dataset)]
        for counterpart in COUNTERPARTS:
            if counterpart.task == task:
                rows += _compared(ours, dataset, counterpart, model)
    table = pd.DataFrame(rows, columns=TABLE_COLUMNS)
    # A metric may have several counterparts: it is missing only if none of them was published.
    lacking = table["published"] == MISSING
    known = (~lacking).groupby([table[name] for name in ("task", "dataset", "group", "metric")]).transform("any")
    return table[~(lacking & known)].reset_index(drop=True)


def _compared(ours: pd.DataFrame, dataset: str, counterpart: Counterpart, model: str) -> Iterator[dict]:
    theirs = _published_rows(dataset, counterpart, model)
    own = ours[ours["metric"].isin(counterpart.columns)]
    used = set()
    for row in own.to_dict("records"):
        fitting = [other for other in theirs if _group_of(other) == (row["group"] or "")]
        for other in fitting:
            used.add(id(other))
            yield _line(dataset, counterpart, row, other)
        if not fitting and not row["group"] and counterpart.published_metric != "success_rate":
            yield _line(dataset, counterpart, row, None)
    for other in theirs:
        if id(other) not in used:
            yield _line(dataset, counterpart, None, other)


def _published_rows(dataset: str, counterpart: Counterpart, model: str) -> list[dict[str, str]]:
    if counterpart.only not in (None, model):
        return []
    names = [name.format(model=model) for name in counterpart.models]
    return [
        row
        for row in published()
        if row["task"] == counterpart.published_task
        and row["metric"] == counterpart.published_metric
        and row["model"] in names
        and simplified(row["dataset"]) == simplified(dataset)
    ]


def _group_of(row: dict[str, str]) -> str:
    """The group of ours that a published row belongs to."""
    kind = row["length_or_problem"]
    if kind in ("", "all", "mean", "median") or kind.startswith("codes="):
        return ""
    return f"length={kind}" if kind.isdigit() else f"problem={kind}"


def _line(dataset: str, counterpart: Counterpart, ours: dict | None, theirs: dict[str, str] | None) -> dict:
    statistic = "median" if theirs and theirs["length_or_problem"] == "median" else "mean"
    line = dict.fromkeys(TABLE_COLUMNS, MISSING) | {
        "task": counterpart.task,
        "dataset": dataset,
        "group": ours["group"] if ours else _group_of(theirs),
        "metric": ours["metric"] if ours else counterpart.metric.name,
        "statistic": statistic,
        "low": None,
        "high": None,
        "in_interval": MISSING,
    }
    if ours:
        line |= {name: ours[name] for name in ("model", "n", "n_failed", "failed_rule", "backend")}
        line["ours"] = ours["value"] if statistic == "mean" else ours["median"]
        if statistic == "mean":
            line |= {"low": ours["low"], "high": ours["high"]}
    if theirs:
        line |= {"published_model": theirs["model"], "source": theirs["source"], "confidence": theirs["confidence"]}
        line["published"] = float(theirs["value"]) * counterpart.scale
    if ours and theirs:
        line["difference"] = line["ours"] - line["published"]
        if line["low"] is not None and not pd.isna(line["low"]):
            line["in_interval"] = "yes" if line["low"] <= line["published"] <= line["high"] else "no"
        else:
            line["in_interval"] = "no interval"
    return line


def read_summaries(sources: Sequence[Path]) -> pd.DataFrame:
    """Summary rows of files, or of all ``summary.csv`` and ``groups.csv`` below folders.

    Raises
    ------
    DPLM2Error
        If there is none, or a file is not a summary.
    """
    tables = []
    for source in sources:
        paths = [*sorted(source.rglob("summary.csv")), *sorted(source.rglob("groups.csv"))]
        for path in paths if source.is_dir() else [source]:
            table = pd.read_csv(path, keep_default_na=False, na_values=[""])
            missing = set(SUMMARY_COLUMNS) - set(table)
            if missing:
                raise DPLM2Error(f"{path}: not a summary, it lacks {', '.join(sorted(missing))}")
            tables.append(table if "group" in table else table.assign(group=""))
    if not tables:
        raise DPLM2Error(f"{', '.join(map(str, sources))}: contains no summary.csv")
    return pd.concat(tables, ignore_index=True).drop_duplicates().fillna({"group": ""})


def compare_summaries(sources: Sequence[Path], model: str | Mapping[str, str], out: Path) -> int:
    """Write ``comparison.csv``, ``comparison.parquet`` and a LaTeX table for each task; returns the exit status."""
    table = compare_with_published(read_summaries(sources), model)
    if table.empty:
        raise DPLM2Error(f"none of these values has a published counterpart for {model!r}")
    write_table(out, "comparison", table, latex=False)  # too wide for a page: a narrower table for each task
    for task, part in table.groupby("task", sort=False):
        write_text(out / f"{task}.tex", as_latex(part[LATEX_COLUMNS], _note(part)))
    print(_printed(table, PRINTED_COLUMNS))
    print(f"wrote {out}")
    return 0


def _note(table: pd.DataFrame) -> str:
    return f"low, high: 95 % interval of our mean; {rule_note(table['failed_rule'])}"


def _printed(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """The columns as text, numbers rounded, and the rule for failed samples below."""
    lines = table[list(columns)].map(_cell).to_string(index=False)
    return f"{lines}\n{_note(table)}"


def _cell(value: object) -> object:
    if value is None or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value


def beside_published(folder: Path) -> str:
    """The summary in a folder compared with the published tokenizer, as text; a line if nothing was published."""
    table = compare_with_published(read_summaries([folder]), "")
    table = table[table["published"] != MISSING]
    if table.empty:
        return "no published values for these chains"
    named = ", ".join(table["published_model"].unique())
    return f"comparison with the published tokenizer ({named}):\n{_printed(table, ['dataset', *PRINTED_COLUMNS[3:]])}"
