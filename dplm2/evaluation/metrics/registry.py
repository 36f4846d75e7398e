"""All metrics: the declaration of any column, and the main metrics of each task."""

from collections.abc import Iterable
from functools import cache

from dplm2.evaluation.metrics import design, diversity, language, prediction, structure, tokenizer, training
from dplm2.evaluation.metrics.metric import Metric
from dplm2.evaluation.metrics.tokenizer import of_weights

METRICS = (
    *structure.METRICS, *design.METRICS, *diversity.METRICS, *tokenizer.METRICS, *language.METRICS, *training.METRICS,
    *prediction.METRICS,
)  # fmt: skip
# The main metrics of each task, in the order of the report.
HEADLINES = {
    "reconstruction": tuple(
        entry
        for metric in (structure.CA_RMSD, structure.LDDT_CA, structure.TM_SCORE, tokenizer.CODEBOOK_USE)
        for entry in (metric, of_weights(metric))
    ),
    "likelihood": (language.CROSS_ENTROPY, language.PERPLEXITY.filled(network="trained")),
    "co-generation": (
        design.SC_TM, design.SC_RMSD, structure.PLDDT, design.DESIGNABLE_SC_RMSD, design.DESIGNABLE_SC_TM,
    ),
    "backbone": (design.SC_TM, design.SC_RMSD, design.DESIGNABLE_SC_RMSD, design.DESIGNABLE_SC_TM),
    "sequence": (structure.PLDDT,),
    "folding": (structure.CA_RMSD, structure.TM_SCORE, structure.LDDT_CA, structure.SECONDARY_STRUCTURE),
    "inverse-folding": (design.RECOVERY, design.SC_TM),
    "scaffolding": (design.PROBLEMS_SOLVED, design.SUCCESS, design.MOTIF_RMSD, design.SC_TM),
}  # fmt: skip


@cache
def declared(column: str) -> Metric | None:
    """The metric of a column, parameters filled in; None if no metric of that name is declared."""
    exact = _by_name().get(column) or _by_name().get(column.lower())
    if exact is not None:
        return exact
    return next((found for metric in METRICS if "{" in metric.name and (found := metric.match(column))), None)


@cache
def _by_name() -> dict[str, Metric]:
    """Metrics without parameters by column; declared names have priority over aliases."""
    plain = [metric for metric in METRICS if "{" not in metric.name]
    return {alias: metric for metric in plain for alias in metric.aliases} | {metric.name: metric for metric in plain}


def metric_of(column: str) -> Metric:
    """As `declared`; a column of another program's table has its name, spaces for underscores, as title."""
    return declared(column) or Metric(column, column.replace("_", " "))


def threshold_columns(columns: Iterable[str], metric: str) -> dict[str, float]:
    """Columns such as ``designable_sc_tm_0.5`` that compare ``metric`` with a threshold, with the threshold."""
    found = {column: declared(column) for column in columns}
    return {
        column: float(entry.parameters["threshold"])
        for column, entry in found.items()
        if entry is not None and entry.judges is not None and entry.judges.name == metric
    }
