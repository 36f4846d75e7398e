"""What metrics, tasks and columns are called where people read them."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

TASKS = (
    "reconstruction",
    "likelihood",
    "co-generation",
    "backbone",
    "sequence",
    "folding",
    "inverse-folding",
    "scaffolding",
)


@dataclass(frozen=True)
class Quantity:
    """A metric's name for people, its unit, and which way is better (+1 more, -1 less, 0 neither)."""

    name: str
    unit: str = ""
    better: int = 0

    @property
    def axis(self) -> str:
        """The name with its unit, for an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


ANGSTROM = "\u00c5"
QUANTITIES = {
    "ca_rmsd": Quantity("C\u03b1 RMSD", ANGSTROM, -1),
    "bb_rmsd": Quantity("backbone RMSD", ANGSTROM, -1),
    "tm_score": Quantity("TM-score", "", 1),
    "tm_score_released": Quantity("TM-score as in the released evaluator", "", 1),
    "lddt_ca": Quantity("lDDT-C\u03b1", "", 1),
    "sc_tm": Quantity("scTM", "", 1),
    "sc_rmsd": Quantity("scRMSD", ANGSTROM, -1),
    "plddt": Quantity("pLDDT", "0 to 100", 1),
    "recovery": Quantity("amino-acid recovery", "", 1),
    "motif_rmsd": Quantity("motif RMSD", ANGSTROM, -1),
    "codebook_use": Quantity("codebook in use", "share", 1),
    "codebook_perplexity": Quantity("codebook perplexity", "", 1),
    "problems_solved": Quantity("problems solved", "", 1),
    "tokenizer_plddt": Quantity("tokenizer's pLDDT", "0 to 100", 1),
    "sc_ca_rmsd": Quantity("scRMSD of C\u03b1", ANGSTROM, -1),
    "sc_lddt_ca": Quantity("sc lDDT-C\u03b1", "", 1),
    "motif_rmsd_generated": Quantity("motif RMSD in the generated structure", ANGSTROM, -1),
    "loss": Quantity("loss"),
    "cross_entropy": Quantity("cross-entropy", "nats", -1),
}
NOTHING = 1e-9  # what rounding errors leave of zero
# Whose figures these are, where not the model's.
OTHERS = {"baseline_": "folding program", "native_": "natives"}
VARIANTS = ("untrained", "trained", "unigram")
CLUSTERS = re.compile(r"(max_cluster|clusters)_(foldseek|tm_align|tm_score)_([\d.]+)(?:_(designable_.+))?")
LOSS_TERMS = {"fape", "distogram", "violation", "sequence", "commitment", "reconstruction"}
# Other spellings of a column, so that tables of other programs can be read too.
ALIASES = {
    "self_consistency_tm": "sc_tm",
    "self_consistency_rmsd": "sc_rmsd",
    "sctm": "sc_tm",
    "scrmsd": "sc_rmsd",
    "plddt_mean": "plddt",
    "mean_plddt": "plddt",
    "rmsd_ca": "ca_rmsd",
    "lddt": "lddt_ca",
    "amino_acid_recovery": "recovery",
    "aar": "recovery",
}


def split_variant(metric: str) -> tuple[str, str]:
    """A metric's own name and what it was measured on: ``ca_rmsd_untrained`` is ``ca_rmsd`` of what is untrained."""
    for variant in VARIANTS:
        if metric.endswith(f"_{variant}"):
            return metric.removesuffix(f"_{variant}"), variant
    return metric, ""


def canonical(metric: str) -> str:
    """The house's name of a metric or column."""
    return ALIASES.get(metric.lower(), metric)


def quantity(metric: str) -> Quantity:
    """How a metric is shown; one that is not known keeps its name, with spaces for underscores."""
    name, variant = split_variant(metric)
    if variant:
        plain = quantity(name)
        return replace(plain, name=f"{plain.name}, {variant}")
    for prefix, words in OTHERS.items():
        if metric.startswith(prefix):
            plain = quantity(metric.removeprefix(prefix))
            return replace(plain, name=f"{plain.name}, {words}")
    name = canonical(metric)
    if name in QUANTITIES:
        return QUANTITIES[name]
    if match := re.fullmatch(r"(designable|match|success)_(.+)_([\d.]+)", name):
        inner = QUANTITIES.get(match[2], Quantity(match[2].replace("_", " ")))
        sign = "\u2265" if inner.better > 0 else "<" if match[1] == "success" else "\u2264"
        unit = f" {inner.unit}" if inner.unit else ""
        return Quantity(f"{match[1]} ({inner.name} {sign} {match[3]}{unit})", "share", 1)
    if count := _count(name):
        return count
    unit = "nats" if "cross_entropy" in name else ANGSTROM if re.search(r"(^|_)rmsd($|_)", name) else ""
    better = 1 if "accuracy" in name else -1 if unit or name in LOSS_TERMS or name.endswith("_perplexity") else 0
    words = name.replace("cross_entropy", "cross-entropy").replace("_", " ")
    return Quantity(words, unit, better)


def _count(name: str) -> Quantity | None:
    """Of a metric that counts samples or clusters, or gives their share."""
    if match := re.fullmatch(r"passes_(.+)", name):
        return Quantity(quantity(f"success_{match[1]}").name.replace("success", "designs that pass"), "", 1)
    if match := CLUSTERS.fullmatch(name):
        what, unit = ("clusters per sample", "share") if match[1] == "max_cluster" else ("clusters", "")
        of = f", {quantity(match[4]).name}" if match[4] else ""
        return Quantity(f"{what} ({match[2]}, TM-score \u2265 {match[3]}{of})", unit, 1)
    return None


def threshold_columns(columns: Iterable[str], metric: str) -> dict[str, float]:
    """Columns such as ``designable_sc_tm_0.5`` that hold ``metric`` against a threshold, with the threshold."""
    pattern = rf"(?:designable|match|success)_{re.escape(metric)}_([\d.]+)"
    return {name: float(match[1]) for name in columns if (match := re.fullmatch(pattern, name))}


def number(value: object) -> str:
    """A number with as many digits as one reads; anything else as text; nothing for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    if not math.isfinite(value):
        return str(value)
    if abs(value) < NOTHING:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def task_kind(*hints: str) -> str | None:
    """Which of the known tasks the hints (a task's name, parts of a path, a command) speak of; the first that fits."""
    for hint in hints:
        words = hint.lower().replace("_", "-")
        # "inverse-folding" contains "folding": the longest name that fits is meant.
        fitting = [task for task in TASKS if task in words or task.replace("-", "") in words]
        if fitting:
            return max(fitting, key=len)
    return None


def task_order(kind: str | None) -> int:
    """Place of a task in the order of the workflow; what is not known comes last."""
    return TASKS.index(kind) if kind in TASKS else len(TASKS)
