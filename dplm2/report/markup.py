"""Small pieces of HTML. Everything that comes from data passes through `escape`; only `Html` is taken as markup."""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape as escape_text
from typing import Any

import numpy as np
import pandas as pd

from dplm2.report.labels import number

VOID = ("input",)  # elements that have no end
ROWS_LOOKED_AT = 20  # to tell whether a column holds numbers


class Html(str):
    """Text that is markup already."""


def escape(content: object) -> Html:
    """Markup as it is; anything else as text in which nothing is markup."""
    return content if isinstance(content, Html) else Html(escape_text(str(content), quote=True))


def join(parts: Iterable[object], between: str = "\n") -> Html:
    """Pieces after one another, each escaped unless it is markup."""
    return Html(between.join(escape(part) for part in parts))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """An element; a trailing underscore of an attribute's name is dropped, other underscores become hyphens."""
    pairs = [(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None]
    written = "".join(f" {name}" if value is True else f' {name}="{escape(value)}"' for name, value in pairs)
    return Html(f"<{tag}{written}>" if tag in VOID else f"<{tag}{written}>{join(content, '')}</{tag}>")


def json_block(name: str, value: Any) -> Html:
    """Data for a script: JSON in which no character can end the element that holds it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def table(
    name: str, columns: Sequence[str], rows: Iterable[Sequence[object]], filtered: bool = False, note: str = ""
) -> Html:
    """A table that sorts by a click on a column's head.

    Parameters
    ----------
    name
        Id of the element.
    rows
        Cells: numbers are rounded and aligned, and sort by their full value.
    filtered
        Whether a field above it filters the rows.
    note
        A line below it.
    """
    rows = [list(row) for row in rows]
    numeric = [any(_is_number(row[i]) for row in rows[:ROWS_LOOKED_AT]) for i in range(len(columns))]
    heads = [
        element("th", element("button", column, type="button"), scope="col", class_="number" if right else None)
        for column, right in zip(columns, numeric, strict=True)
    ]
    body = [element("tr", *map(_cell, row)) for row in rows]
    field = (
        element("input", type="search", placeholder="Filter rows", aria_label="Filter rows", data_filters=name)
        if filtered
        else ""
    )
    whole = element(
        "table",
        element("thead", element("tr", *heads)),
        element("tbody", join(body)),
        id=name,
        class_="sortable",
    )
    return join([field, element("div", whole, class_="scroll"), element("p", note, class_="note") if note else Html()])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and not pd.isna(value)


def _cell(value: object) -> Html:
    if isinstance(value, str):
        return element("td", value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return element("td")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return element("td", "yes" if value else "no")
    if isinstance(value, int | float):
        return element("td", number(value), class_="number", data_value=repr(value))
    return element("td", value)


def typed(text: str) -> object:
    """A CSV file's text as a number if it is one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text and "e" not in text.lower() else value


def frame_table(name: str, frame: pd.DataFrame, most: int, file: str) -> Html:
    """The first rows of a frame, with where all of them are; columns that hold lists are left out."""
    scalar = [c for c in frame if not frame[c].map(lambda v: hasattr(v, "__len__") and not isinstance(v, str)).any()]
    rows = frame[scalar].head(most).itertuples(index=False, name=None)
    note = (
        f"{min(most, len(frame)):,} of {len(frame):,} rows; all: tables/{file}"
        if len(frame) > most
        else f"Also: tables/{file}"
    )
    return table(name, scalar, rows, filtered=len(frame) > 10, note=note)


def details(summary: str, content: object) -> Html:
    """A part that is opened by a click."""
    return element("details", element("summary", summary), content)
