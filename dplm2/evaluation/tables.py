"""Tables as files: CSV, Parquet with one type per column, and LaTeX."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from dplm2.core import parquet
from dplm2.core.artifacts import atomic_path, write_text

# Columns of numbers, whatever their type in memory: text from CSV, or numbers mixed with "missing".
# A column of names stays text, even if every name looks like a number.
FIGURES = {
    "value", "n", "n_failed", "median", "low", "high", "ours", "published", "difference", "seconds_per_sample",
}  # fmt: skip
_SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
})  # fmt: skip


def write_table(folder: Path, name: str, table: pd.DataFrame, latex: bool = True) -> list[Path]:
    """Write ``name.csv``, ``name.parquet`` and optionally ``name.tex``; returns the paths.

    In the Parquet file a value that is not a number ("missing") is null.
    """
    with atomic_path(folder / f"{name}.csv") as temporary:
        # Numbers mixed with text ("missing") are rounded here: to_csv only rounds columns of numbers.
        table.map(_rounded).to_csv(temporary, index=False)
    parquet.write_frame(folder / f"{name}.parquet", table.apply(_of_one_type))
    written = [folder / f"{name}.csv", folder / f"{name}.parquet"]
    if latex:
        write_text(folder / f"{name}.tex", as_latex(table))
        written.append(folder / f"{name}.tex")
    return written


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) and value == value else value


def _of_one_type(column: pd.Series) -> pd.Series:
    if column.name in FIGURES:
        return pd.to_numeric(column, errors="coerce")
    try:
        pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # numbers and text in one column
        return column.map(lambda value: None if pd.isna(value) else str(value))
    return column


def as_latex(table: pd.DataFrame, note: str = "") -> str:
    """A table in LaTeX (package booktabs), figures to the right with three significant digits, and a note below it."""
    figures = [name in FIGURES or pd.api.types.is_numeric_dtype(table[name]) for name in table]
    cells = [map(_latex_cell, row, figures) for row in table.itertuples(index=False, name=None)]
    shown = pd.DataFrame(cells, columns=[_latex_text(name.replace("_", " ")) for name in table], dtype=object)
    alignment = "".join("r" if figure else "l" for figure in figures)
    # Escaped above: pandas would leave a space after each command.
    text = shown.to_latex(index=False, escape=False, column_format=alignment)
    return text + (f"\\par{{\\footnotesize {_latex_text(note)}}}\n" if note else "")


def _latex_cell(value: object, figure: bool) -> str:
    if pd.isna(value) or figure and value == "":
        return "--"
    if figure:
        number = pd.to_numeric(value, errors="coerce")
        if isinstance(value, bool) or number != number:
            return _latex_text(str(value))
        return f"{number:.0f}" if float(number).is_integer() else f"{number:.3g}"
    return _latex_text(str(value))


def _latex_text(text: str) -> str:
    return text.translate(_SPECIAL)
