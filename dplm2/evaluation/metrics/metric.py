"""Declaration of a metric, and of columns whose names have parameters (a threshold, a track, a program)."""

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
# Titles of parameter values that differ from their names.
NAMES = {"tm_align": "TM-align", "tm_score": "TM-score", "unigram": "unigram baseline"}
# Patterns of the parameters in column names.
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
        Name of its column, with parameters in braces: ``designable_sc_tm_{threshold}``.
    title
        Readable name; it may contain the same parameters.
    unit
        For axes and tables; `SHARE` for a fraction of something.
    better
        Whether higher or lower values are better; None if neither.
    of
        The items that are counted, or the denominator of a share.
    source
        The paper and section that define it, or the function that computes it.
    limits
        Lowest and highest possible value, if axes show the full range.
    published
        Its names in ``published.csv``, each with the factor from that unit to ours.
    aliases
        Other spellings of the column, so that tables of other programs can be read.
    base
        The metric that this one applies to something else: untrained weights, a baseline, natives.
    judges
        The metric that is compared with the parameter ``threshold``.
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
        """The declared metric, without values of parameters."""
        return self.family or self

    @property
    def axis(self) -> str:
        """Title and unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def suffix(self) -> str:
        """Suffix of a value: a space and the unit, if it is a unit of measurement."""
        return f" {self.unit}" if self.unit in (ANGSTROM, NATS) else ""

    @property
    def arrow(self) -> str:
        """An arrow in the direction of better values."""
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
        """The metric applied to something else; ``{name}`` and ``{title}`` in the patterns are replaced by its own."""
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
