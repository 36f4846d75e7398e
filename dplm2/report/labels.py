"""Formatting of numbers and tasks; titles of metrics are those of `dplm2.evaluation.metrics`."""

import math

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
NOTHING = 1e-9  # smaller values are rounding errors of zero


def number(value: object) -> str:
    """A number with a readable number of digits; anything else as text; empty if missing."""
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


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.0f} %"


def task_kind(*hints: str) -> str | None:
    """The known task to which the hints (a task's name, parts of a path, a command) refer; the first match."""
    for hint in hints:
        words = hint.lower().replace("_", "-")
        # "inverse-folding" contains "folding": the longest match is used.
        fitting = [task for task in TASKS if task in words or task.replace("-", "") in words]
        if fitting:
            return max(fitting, key=len)
    return None


def task_order(kind: str | None) -> int:
    """Position of a task in the order of the workflow; unknown tasks are last."""
    return TASKS.index(kind) if kind in TASKS else len(TASKS)
