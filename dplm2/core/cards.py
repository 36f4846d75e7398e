"""The model card of a folder: ``README.md`` with the front matter that the Hugging Face hub reads."""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from dplm2.core.artifacts import write_text

CARD_FILE = "README.md"
METRICS_FILE = "metrics.csv"
REPOSITORY = "OWNER/NAME"  # in examples: where the folder lies
LICENCE = "unknown"  # an identifier of the hub's; whoever publishes the weights chooses another one
VALIDATION = "validation_"
PAPER = "[DPLM-2 (Wang et al., ICLR 2025)](https://arxiv.org/abs/2410.13782)"
_TAGS = ("protein", "protein-structure", "discrete-diffusion", "dplm-2")
_MARK = "<!-- Written by dplm2, and written again with the weights. Remove this line to keep a text of your own. -->"


def write_card(
    folder: str | os.PathLike,
    title: str,
    facts: Mapping[str, object],
    usage: Iterable[str],
    *,
    licence: str | None = None,
    origin: str = "",
) -> None:
    """Write ``README.md`` into a folder, unless one is there that someone else wrote.

    Parameters
    ----------
    folder
        With ``metrics.csv`` if there was a training; the figures of its last validation are shown.
    title
        What the folder holds.
    facts
        Properties by name.
    usage
        Lines of Python that use it.
    licence
        Identifier as the hub knows it; by default it is stated as unknown.
    origin
        Where the weights come from.
    """
    path = Path(folder) / CARD_FILE
    if path.is_file() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    front = {"library_name": "dplm2", "license": licence or LICENCE, "tags": list(_TAGS)}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{_MARK}\n\n# {title}",
        origin,
        _table(("property", "value"), facts),
        "\n".join(["```python", *usage, "```"]),
        _figures(path.with_name(METRICS_FILE)),
        f"Method: {PAPER}. `run.json`, if it is here, records how these weights were made.",
    ]
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _figures(metrics: Path) -> str:
    """The last validation of a training, or its last row."""
    if not metrics.is_file():
        return ""
    with metrics.open(newline="", encoding="utf-8", errors="replace") as stream:
        rows = list(csv.DictReader(stream))
    validated = [row for row in rows if any(value for name, value in row.items() if _is_of_validation(name))]
    for row, wanted, said in ((validated, _is_of_validation, "validation"), (rows, _is_of_training, "training")):
        figures = {name.removeprefix(VALIDATION): row[-1][name] for name in row[-1] if wanted(name)} if row else {}
        figures = {name.replace("_", " "): value for name, value in figures.items() if value}
        if figures:
            step = row[-1].get("step", "")
            return f"Figures of the last {said} (step {step}), from `metrics.csv`:\n\n" + _table(
                ("metric", "value"), figures
            )
    return ""


def _is_of_validation(name: str | None) -> bool:
    return bool(name) and name.startswith(VALIDATION)


def _is_of_training(name: str | None) -> bool:
    return bool(name) and not name.startswith(VALIDATION) and name not in ("step", "seconds", "stage")


def _table(heads: tuple[str, str], rows: Mapping[str, object]) -> str:
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)
