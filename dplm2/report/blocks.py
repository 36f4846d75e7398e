"""Chapters of the page, their sections, and the parts of these: tables, cards, the viewer.

Each part names the template that shows it.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from dplm2.report.drawing import Figure
from dplm2.report.labels import number

ROWS_LOOKED_AT = 20  # rows inspected to decide whether a column is numeric
MOST_UNFILTERED_ROWS = 10


@dataclass(frozen=True)
class Download:
    """A file that the page contains, for download without a network.

    Attributes
    ----------
    label
        Text of the link.
    file
        Name under which the browser saves it.
    content
        The file.
    """

    label: str
    file: str
    content: bytes

    @property
    def address(self) -> str:
        """The content as an address."""
        kind = "text/plain" if self.file.endswith((".csv", ".fasta", ".pdb", ".cif")) else "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Downloads:
    """Links to files, side by side."""

    files: Sequence[Download]
    template: ClassVar[str] = "downloads.html"


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text and, for a number, the full value by which rows are sorted; or files to download."""

    text: str = ""
    value: float | None = None
    files: Sequence[Download] = ()


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by a click on a column head.

    Attributes
    ----------
    name
        Id of the element.
    columns, rows
        Heads, and cells as plain values: numbers are rounded and aligned to the right.
    filtered
        Whether there is a filter field above it.
    note
        A line below it.
    file
        The file below ``tables/`` with all rows and columns, linked below it.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    filtered: bool = False
    note: str = ""
    file: str = ""
    template: ClassVar[str] = "table.html"

    @property
    def cells(self) -> list[list[Cell]]:
        """The displayed rows."""
        return [[_cell(value) for value in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column is numeric."""
        rows = [list(row) for row in self.rows[:ROWS_LOOKED_AT]]
        return [any(_cell(row[i]).value is not None for row in rows) for i in range(len(self.columns))]


@dataclass(frozen=True)
class Heading:
    """A subheading of the section."""

    text: str
    template: ClassVar[str] = "heading.html"


@dataclass(frozen=True)
class Details:
    """Blocks that are opened by a click."""

    summary: str
    blocks: Sequence["Block"]
    template: ClassVar[str] = "details.html"


@dataclass(frozen=True)
class CardRow:
    """One metric of a card: what it is called, its value with unit, and its interval."""

    term: str
    value: str
    interval: str


@dataclass(frozen=True)
class Card:
    """The headline metrics of one task, model and dataset."""

    title: str
    subject: str
    rows: Sequence[CardRow]
    note: str


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    cards: Sequence[Card]
    template: ClassVar[str] = "cards.html"


@dataclass(frozen=True)
class Viewer:
    """The 3-D viewer and its scenes, as plain values for JSON."""

    scenes: list[dict[str, Any]]
    template: ClassVar[str] = "structures.html"


@dataclass(frozen=True)
class Design:
    """One of the best designs.

    Attributes
    ----------
    name, subject
        Its id; its model, task and length.
    passes
        Whether it passes the thresholds, in words; empty without thresholds.
    measures
        Its main metrics in words.
    key
        Of its scene in the viewer; empty if it has none.
    """

    name: str
    subject: str
    passes: str
    measures: Sequence[str]
    key: str = ""


@dataclass(frozen=True)
class Best:
    """A short table of the best designs; a click on one shows its structure."""

    designs: Sequence[Design]
    template: ClassVar[str] = "best.html"

    @property
    def judged(self) -> bool:
        """Whether there were thresholds."""
        return any(design.passes for design in self.designs)


Block = Table | Heading | Details | Cards | Viewer | Downloads | Best


@dataclass
class PageSection:
    """A part of the page.

    Attributes
    ----------
    name, title
        Id and heading.
    about
        A sentence below the heading.
    figures
        Drawn side by side.
    body
        Blocks after the figures.
    absent
        If there is nothing to show: a note on what was not run.
    """

    name: str
    title: str
    about: str = ""
    figures: list[Figure] = field(default_factory=list)
    body: list[Block] = field(default_factory=list)
    absent: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.figures and not self.body


@dataclass(frozen=True)
class Chapter:
    """Sections that belong together, below a heading of their own."""

    name: str
    title: str
    parts: Sequence[PageSection]


def _cell(value: object) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value)):
        return Cell()
    if isinstance(value, Downloads):
        return Cell(files=value.files)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(number(value), value)
    return Cell(str(value))


def typed(text: str) -> object:
    """A CSV file's text as a number if it is one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text and "e" not in text.lower() else value


def frame_table(name: str, frame: pd.DataFrame, most: int, file: str) -> Table:
    """The first rows of a frame, with the file that contains all of them; columns of lists are omitted."""
    scalar = [c for c in frame if not frame[c].map(lambda v: hasattr(v, "__len__") and not isinstance(v, str)).any()]
    note = f"{most:,} of {len(frame):,} rows." if len(frame) > most else ""
    rows = frame[scalar].head(most).itertuples(index=False, name=None)
    return Table(name, scalar, list(rows), len(frame) > MOST_UNFILTERED_ROWS, note, file)
