"""Settings of the training loop: the section ``training`` of a tokenizer or a model.

Defaults live in ``dplm2/schema/training.json`` alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dplm2 import config
from dplm2.errors import ConfigError

LONGEST_DEFAULT_WARMUP = 2000  # updates; the paper's

# How a training is run and watched; two runs that differ in these alone are the same training.
INCIDENTAL = frozenset(
    {
        "activation_checkpointing",
        "compile",
        "strategy",
        "workers",
        "validate_every",
        "log_every",
        "save_every",
        "save_every_seconds",
        "keep",
        "time_limit_minutes",
        "loggers",
    }
)


@dataclass(frozen=True)
class TrainingSettings:
    """Optimiser, batches, precision, devices, checkpoints and logs; each key is described in the schema."""

    steps: int
    token_budget: int
    max_batch_size: int | None
    sample_by: str
    accumulate: int
    optimizer: str
    learning_rate: float
    initial_learning_rate: float
    final_learning_rate: float | None
    warmup_steps: int | None
    schedule: str
    decay_power: float
    weight_decay: float
    decay_all: bool
    betas: tuple[float, float]
    epsilon: float
    gradient_clip: float | None
    ema_decay: float | None
    precision: str
    activation_checkpointing: bool
    compile: bool
    devices: int | str
    strategy: str
    workers: int
    validate_every: int | None
    log_every: int
    save_every: int | None
    save_every_seconds: float | None
    keep: int
    time_limit_minutes: float | None
    loggers: tuple[str, ...]

    @classmethod
    def make(cls, **values: Any) -> "TrainingSettings":
        """The schema's defaults with ``values`` in place of some; checked against the schema.

        Raises
        ------
        ConfigError
            Names each wrong key.
        """
        problems = list(config.problems_of(values, "training"))
        if problems:
            raise ConfigError("the training settings are wrong:\n  " + "\n  ".join(problems))
        return config.build(cls, config.complete(values, "training"))

    @property
    def warmup(self) -> int:
        """Updates of the warm-up."""
        default = min(LONGEST_DEFAULT_WARMUP, self.steps // 10)
        return default if self.warmup_steps is None else self.warmup_steps

    @property
    def last_learning_rate(self) -> float:
        """What the decay ends at."""
        return self.learning_rate / 10 if self.final_learning_rate is None else self.final_learning_rate

    def check(self) -> None:
        """Refuse values that contradict each other and keys that would have no effect.

        Raises
        ------
        ConfigError
            Names each such key and says why.
        """
        problems = list(self.problems())
        if problems:
            raise ConfigError("the training settings are wrong:\n  " + "\n  ".join(problems))

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction or key without effect that the settings alone show."""
        given = self._given
        if self.warmup >= self.steps:
            yield f"training.warmup_steps: {self.warmup} is not less than steps ({self.steps})"
        if self.schedule == "polynomial" and self.last_learning_rate > self.learning_rate:
            yield (
                f"training.final_learning_rate: {self.last_learning_rate} is above learning_rate ({self.learning_rate})"
            )
        if self.schedule == "constant":
            for key in ("final_learning_rate", "decay_power"):
                if given(key):
                    yield f"training.{key}: has no effect with schedule: constant; leave it out"
        if self.warmup == 0 and given("initial_learning_rate"):
            yield "training.initial_learning_rate: has no effect without warm-up; leave it out or set warmup_steps"
        if self.initial_learning_rate > self.learning_rate:
            yield (
                f"training.initial_learning_rate: {self.initial_learning_rate} is above learning_rate "
                f"({self.learning_rate})"
            )
        if self.optimizer == "muon" and self.strategy == "fsdp":
            yield "training.optimizer: muon needs whole matrices, and strategy: fsdp cuts them; use ddp"
        if self.weight_decay == 0 and given("decay_all"):
            yield "training.decay_all: has no effect with weight_decay: 0; leave it out"
        if self.save_every is None and self.save_every_seconds is None:
            yield "training.save_every: give it or save_every_seconds; without either nothing could be resumed"

    def _given(self, key: str) -> bool:
        default = config.defaults("training")[key]
        return getattr(self, key) != (tuple(default) if isinstance(default, list) else default)


def decisive(section: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a ``training`` section that decides the trained weights: what belongs into a fingerprint.

    How often is logged, saved and validated, and how the same arithmetic is spread or compiled, is left out, so that
    changing it does not throw progress away.
    """
    return {key: value for key, value in section.items() if key not in INCIDENTAL}
