"""Size and training of the models of a run, and a warning if they are far below any published model."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dplm2.core.errors import DPLM2Error
from dplm2.report.results import Results
from dplm2.training.log import duration

# The smallest published DPLM-2 (150 M parameters, 100,000 steps) and the published tokenizer's training.
SMALLEST_PUBLISHED_MODEL = 150_000_000
PUBLISHED_STEPS = 100_000
# Below this fraction of the published parameters and steps, results are not informative about the method.
TINY_SHARE = 0.1
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Scale:
    """Size and training of one tokenizer or model; None if unknown.

    Attributes
    ----------
    place
        For example ``models/demo``.
    parameters
        Numbers in its weights file.
    steps
        Updates of its training, the last of ``metrics.csv``.
    seconds
        Wall time of its training.
    """

    place: str
    parameters: int | None
    steps: int | None
    seconds: float | None

    @property
    def is_tokenizer(self) -> bool:
        """Whether it is a structure tokenizer."""
        return self.place.startswith("tokenizers/")

    @property
    def tiny(self) -> bool:
        """Whether it is far below any published model, in size (language models) or in training."""
        small = self.parameters is not None and self.parameters < TINY_SHARE * SMALLEST_PUBLISHED_MODEL
        brief = self.steps is not None and self.steps < TINY_SHARE * PUBLISHED_STEPS
        return brief or (small and not self.is_tokenizer)

    @property
    def sentence(self) -> str:
        """Size and training in words."""
        kind, name = self.place.split("/", 1)
        facts = []
        if self.parameters is not None:
            facts.append(f"{in_words(self.parameters)} parameters")
        if self.steps is not None:
            facts.append(f"{self.steps:,} training steps")
        if self.seconds is not None and self.steps is not None:
            facts.append(f"trained for {duration(self.seconds)}")
        return f"{kind.removesuffix('s')} {name}: {', '.join(facts)}"


def scales(results: Results) -> list[Scale]:
    """Size and training of every tokenizer and model of a run, without the stages before a model's training."""
    steps = {curve.place: int(curve.rows["step"].max()) for curve in results.curves}
    seconds = {run.place: run.record.get("wall_seconds") for run in results.runs}
    for curve in results.curves:
        # The loop's own clock counts the runs before a resumption; a run's wall time does not.
        if "seconds" in curve.rows and curve.rows["seconds"].notna().any():
            seconds[curve.place] = max(float(curve.rows["seconds"].max()), float(seconds.get(curve.place) or 0))
    places = {path.parent.relative_to(results.folder).as_posix(): path for path in _weights(results.folder)}
    known = sorted({*steps, *places}, key=lambda place: (place.startswith("models/"), place))
    return [
        Scale(place, count_parameters(places[place]) if place in places else None, steps.get(place), seconds.get(place))
        for place in known
        if not place.endswith("/initial")
    ]


def _weights(folder: Path) -> Iterator[Path]:
    yield from folder.glob("tokenizers/*/model.safetensors")
    yield from folder.glob("models/*/model.safetensors")


def count_parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DPLM2Error(f"{path}: not a safetensors file ({error})") from error


def in_words(count: int) -> str:
    """1.2 million instead of 1234567."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,}"


TINY = (
    "These models are tiny and were trained briefly: the results show that every stage works, not what the method can "
    "achieve."
)


def warning(scales: list[Scale]) -> str | None:
    """The warning about models that are tiny or briefly trained: `TINY`, then the facts; None if there are none."""
    tiny = [scale for scale in scales if scale.tiny]
    if not tiny:
        return None
    facts = "; ".join(scale.sentence for scale in tiny)
    return (
        f"{TINY} {facts[:1].upper()}{facts[1:]}. The smallest published DPLM-2 has "
        f"{in_words(SMALLEST_PUBLISHED_MODEL)} parameters and was trained for {PUBLISHED_STEPS:,} steps on several "
        "GPUs."
    )
