"""What the declaration of a metric says, and columns whose names have parameters (a threshold, a track, a program)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from string import Formatter
from typing import Literal

ANGSTROM, NATS, SHARE, CONFIDENCE = "\u00c5", "nats", "share", "0 to 100"
LETTER_C_ALPHA = "C\u03b1"
AT_LEAST, AT_MOST = "\u2265", "\u2264"
ARROWS = {"higher": "\u2191", "lower": "\u2193", None: ""}
NUMBER = r"\d[\d.e+-]*"
# Values of parameters that are no plain words.
NAMES = {"tm_align": "TM-align", "tm_score": "TM-score", "unigram": "unigram baseline"}
# What may stand in a column's name for each parameter.
PARAMETERS = {
    "threshold": NUMBER,
    "cluster_threshold": NUMBER,
    "program": "foldseek|tm_align|tm_score",
    "weights": "trained|untrained",
    "network": "trained|untrained|unigram",
    "track": "sequence|structure",
    "given": "single_modality|folding|inverse_folding|joint",
}


@dataclass(frozen=True)
class Metric:
    """A metric, or a family of metrics that differ in parameters.

    Attributes
    ----------
    name
        Of its column, with parameters in braces: ``designable_sc_tm_{threshold}``.
    title
        Its name for people; it may hold the same parameters.
    unit
        For axes and tables; `SHARE` for a fraction of something.
    better
        Whether higher or lower values are better; None if neither is.
    of
        What it is a share of or counts.
    source
        The paper and section that define it, or the function that computes it.
    limits
        Lowest and highest possible value, where axes show that whole range.
    published
        Its names in ``published.csv``, each with the factor from that unit to ours.
    aliases
        Other spellings of the column, so that tables of other programs can be read.
    base
        The metric of which this gives the values for something else: untrained weights, a baseline, natives.
    judges
        The metric that is held against the parameter ``threshold``.
    family
        For a column with its parameters filled in: the declaration.
    parameters
        For such a column: the values of the parameters, as text.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    of: str = ""
    source: str = ""
    limits: tuple[float, float] | None = None
    published: Mapping[str, float] = field(default_factory=dict, hash=False)
    aliases: tuple[str, ...] = ()
    base: "Metric | None" = None
    judges: "Metric | None" = None
    family: "Metric | None" = None
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def declaration(self) -> "Metric":
        """The metric as it is declared, without values of parameters."""
        return self.family or self

    @property
    def axis(self) -> str:
        """Title and unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def suffix(self) -> str:
        """What stands behind a value: a space and the unit, if it is one of measurement."""
        return f" {self.unit}" if self.unit in (ANGSTROM, NATS) else ""

    @property
    def arrow(self) -> str:
        """An arrow in the direction that is better."""
        return ARROWS[self.better]

    def filled(self, **values: object) -> "Metric":
        """The metric with some or all parameters filled in; numbers in their shortest form."""
        texts = {name: f"{value:g}" if isinstance(value, int | float) else str(value) for name, value in values.items()}
        return replace(
            self,
            name=_fill(self.name, texts),
            title=_fill(self.title, {name: NAMES.get(text, text.replace("_", " ")) for name, text in texts.items()}),
            family=self.declaration,
            parameters={**self.parameters, **texts},
        )

    def column(self, **values: object) -> str:
        """The name of the column for these values of the parameters."""
        return self.filled(**values).name

    def match(self, column: str) -> "Metric | None":
        """This metric for a column of its family, parameters filled in; None for any other column."""
        found = _pattern(self.name).fullmatch(column)
        return self.filled(**found.groupdict()) if found else None

    def under(self, name: str, title: str) -> "Metric":
        """Its values for something else, ``{name}`` and ``{title}`` in the patterns standing for its own."""
        return replace(
            self,
            name=name.replace("{name}", self.name),
            title=title.replace("{title}", self.title),
            aliases=(),
            base=self,
        )


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


@cache
def _pattern(name: str) -> re.Pattern:
    parts = []
    for literal, parameter, _, _ in Formatter().parse(name):
        parts.append(re.escape(literal))
        if parameter is not None:
            parts.append(f"(?P<{parameter}>{PARAMETERS[parameter]})")
    return re.compile("".join(parts))
