"""Settings of the sampler: strategies, unmasking noise and mask schedule; does not import torch.

The names of strategies are those of the authors' program. Paper section 3.2.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dplm2.core.errors import ConfigError
from dplm2.language.vocabulary import TRACKS, Track
from dplm2.settings import Section
from dplm2.settings.generation import GenerationSettings

Schedule = Literal["linear", "cosine"]
Remasking = Literal["fresh", "kept", "never"]
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


@dataclass(frozen=True)
class Strategy:
    """How a token is drawn from the filtered distribution.

    Parameters
    ----------
    kind
        ``argmax``; ``gumbel_argmax`` (argmax of log-probabilities plus temperature times Gumbel noise); ``sample``
        (a draw at a temperature).
    first, last
        Temperature at the first step, and the one to which it decreases linearly.
    """

    kind: Literal["argmax", "gumbel_argmax", "sample"]
    first: float = 1.0
    last: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Strategy":
        """Read ``argmax``, ``gumbel_argmax[@T]``, ``annealing@HIGH:LOW`` or ``temperature@T``.

        Raises
        ------
        ConfigError
            If it is none of these.
        """
        if text == "argmax":
            return cls("argmax")
        if match := re.fullmatch(rf"gumbel_argmax(?:@{_NUMBER})?", text):
            temperature = float(match[1] or 1.0)
            return cls("gumbel_argmax", temperature, temperature)
        if match := re.fullmatch(rf"annealing@{_NUMBER}:{_NUMBER}", text):
            return cls("sample", float(match[1]), float(match[2]))
        if match := re.fullmatch(rf"temperature@{_NUMBER}", text):
            return cls("sample", float(match[1]), float(match[1]))
        raise ConfigError(
            f"strategy: {text!r} is not known; allowed: argmax, gumbel_argmax, gumbel_argmax@T, annealing@HIGH:LOW, "
            "temperature@T"
        )

    def temperature(self, progress: Any) -> Any:
        """Temperature after the fraction ``progress`` (0 to 1; a number or a tensor) of the steps."""
        return self.last + (self.first - self.last) * (1 - progress)


@dataclass(frozen=True)
class Unmasking:
    """Noise on the ranking of positions.

    Parameters
    ----------
    noise
        Initial scale of the Gumbel noise; it decreases with the fraction of masked positions. 0: none.
    """

    noise: float

    @classmethod
    def parse(cls, text: str) -> "Unmasking":
        """Read ``deterministic``, ``stochastic`` (scale 1) or ``stochastic@SCALE``.

        Raises
        ------
        ConfigError
            If it is none of these.
        """
        if text == "deterministic":
            return cls(0.0)
        if match := re.fullmatch(rf"stochastic(?:@{_NUMBER})?", text):
            return cls(float(match[1] or 1.0))
        raise ConfigError(
            f"unmasking: {text!r} is not known; allowed: deterministic, stochastic, stochastic@SCALE "
            "(for example stochastic@1.0)"
        )


def masked_share(step: int, steps: int, schedule: Schedule) -> float:
    """Fraction of the positions that remain masked after ``step`` (1 to ``steps``) steps."""
    return 1 - step / steps if schedule == "linear" else math.cos(math.pi / 2 * step / steps)


def masked_count(positions: int, step: int, steps: int, schedule: Schedule) -> int:
    """Number of the generated ``positions`` that remain masked after ``step`` steps; 0 after the last."""
    if step >= steps:
        return 0
    if schedule == "linear":
        return positions * (steps - step) // steps  # integers: after 9 of 10 steps, 1 of 10 positions, not 0.99
    return math.floor(positions * masked_share(step, steps, schedule))


@dataclass(frozen=True)
class SamplerSettings:
    """How tokens are drawn and positions unmasked.

    Parameters
    ----------
    strategy, unmasking
        Per track.
    schedule
        Decrease of the number of masks over the steps.
    remasking
        ``fresh``: every open position is ranked by the score of its new prediction (the authors); ``kept``: decoded
        positions are ranked by the probability of their current token; ``never``: decoded positions do not change.
    nucleus
        Probability mass kept before a draw; one number, or one per track.
    guidance
        Scale of classifier-free guidance: logits are ``u + guidance * (c - u)``, with u the logits (unconditional)
        without the given tokens and c those with them. 1: off.
    amino_acids
        ``standard``: the 20 standard amino acids; ``official``: all that the authors' list does not forbid.
    """

    strategy: Mapping[Track, Strategy]
    unmasking: Mapping[Track, Unmasking]
    schedule: Schedule = "linear"
    remasking: Remasking = "fresh"
    nucleus: float | Mapping[Track, float] = 0.95
    guidance: float = 1.0
    amino_acids: Literal["standard", "official"] = "standard"

    @classmethod
    def of(cls, strategy: str, unmasking: str, **others) -> "SamplerSettings":
        """The same strategy and unmasking, as text, for both tracks."""
        return cls(
            dict.fromkeys(TRACKS, Strategy.parse(strategy)), dict.fromkeys(TRACKS, Unmasking.parse(unmasking)), **others
        )

    def nucleus_of(self, track: Track) -> float:
        """Probability mass kept before a draw on a track."""
        return self.nucleus[track] if isinstance(self.nucleus, Mapping) else self.nucleus


def sampler_settings(task: GenerationSettings) -> SamplerSettings:
    """Sampler settings of a task; defaults that depend on the model are those of the default structure head."""
    if None in (task.strategy, task.unmasking, task.nucleus):
        from dplm2.language import heads

        task = task.completed(heads.HEADS[heads.DEFAULT].sampling)

    def by_track(value: str | Section) -> Mapping[Track, str]:
        return dict.fromkeys(TRACKS, value) if isinstance(value, str) else dict(value)

    return SamplerSettings(
        strategy={track: Strategy.parse(text) for track, text in by_track(task.strategy).items()},
        unmasking={track: Unmasking.parse(text) for track, text in by_track(task.unmasking).items()},
        schedule=task.schedule,
        remasking=task.remasking,
        nucleus=dict(task.nucleus) if isinstance(task.nucleus, Section) else task.nucleus,
        guidance=task.guidance,
        amino_acids=task.amino_acids,
    )
