"""Settings of one generation task: the section ``generation.<name>`` of the configuration.

Names, defaults and the tasks that a key has an effect on stand in ``dplm2/schema/generation.json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from dplm2 import config
from dplm2.errors import ConfigError
from dplm2.language import heads
from dplm2.language.schedule import Remasking, SamplerSettings, Schedule, Strategy, Unmasking
from dplm2.language.vocabulary import TRACKS, Track

SECTION = "generation"
Task = Literal["co-generation", "sequence", "backbone", "folding", "inverse-folding", "scaffolding", "infilling"]
TASKS: tuple[Task, ...] = get_args(Task)
UNCONDITIONAL: tuple[Task, ...] = ("co-generation", "sequence", "backbone")
TRACKS_OF: Mapping[Task, tuple[Track, ...]] = {"sequence": ("sequence",), "backbone": ("structure",)}
"""The tracks of tasks that have only one."""
# What changes neither tokens nor coordinates of a sample.
_WITHOUT_EFFECT_ON_SAMPLES = (
    "samples",
    "lengths",
    "problems",
    "dataset",
    "split",
    "references",
    "token_budget",
    "format",
    "trajectory",
)


@dataclass(frozen=True)
class GenerationSettings:
    """One task; see the schema for what each key means."""

    task: Task
    dataset: str | None
    split: str | None
    lengths: tuple[int, ...] | Mapping[str, int] | None
    samples: int
    problems: tuple[str, ...]
    references: str | None
    motif_tokens: Literal["reference", "motif"]
    fixed: str | None
    mask_sequence: str | None
    mask_structure: str | None
    renoise: float | None
    steps: int
    steps_per_residue: float | None
    strategy: str | Mapping[Track, str] | None
    unmasking: str | Mapping[Track, str]
    schedule: Schedule
    remasking: Remasking
    nucleus: float | Mapping[Track, float] | None
    guidance: float
    amino_acids: Literal["standard", "official"]
    best_of: int
    token_budget: int
    precision: Literal["auto", "float32", "bfloat16"]
    format: Literal["bcif", "pdb", "none"]
    trajectory: int

    @property
    def sampler(self) -> SamplerSettings:
        """What the sampler needs to know; what is left to the model's head is as of the default head.

        Raises
        ------
        ConfigError
            If a strategy or unmasking is not known.
        """
        if None in (self.strategy, self.nucleus):
            return self.for_head(heads.HEADS[heads.DEFAULT].sampling).sampler
        return SamplerSettings(
            strategy={track: Strategy.parse(text) for track, text in _by_track(self.strategy).items()},
            unmasking={track: Unmasking.parse(text) for track, text in _by_track(self.unmasking).items()},
            schedule=self.schedule,
            remasking=self.remasking,
            nucleus=self.nucleus,
            guidance=self.guidance,
            amino_acids=self.amino_acids,
        )

    def for_head(self, defaults: heads.Sampling) -> "GenerationSettings":
        """These settings with what they leave to the model's structure head filled in."""
        return replace(
            self,
            strategy=defaults.strategy if self.strategy is None else self.strategy,
            nucleus=dict(defaults.nucleus) if self.nucleus is None else self.nucleus,
        )

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The tracks of the samples."""
        return TRACKS_OF.get(self.task, TRACKS)

    @property
    def described(self) -> dict[str, Any]:
        """The keys that have an effect on the task, with their values."""
        return {key: getattr(self, key) for key, node in _properties().items() if self.task in node.get("tasks", TASKS)}

    @property
    def sampling(self) -> dict[str, Any]:
        """The keys that decide what one sample looks like, with their values."""
        return {key: value for key, value in self.described.items() if key not in _WITHOUT_EFFECT_ON_SAMPLES}

    def steps_for(self, length: int) -> int:
        """Steps for a protein of so many residues."""
        if self.steps_per_residue is None:
            return self.steps
        return max(1, min(self.steps, round(self.steps_per_residue * length)))


def _by_track(value: str | Mapping[Track, str]) -> Mapping[Track, str]:
    return dict.fromkeys(TRACKS, value) if isinstance(value, str) else value


def _properties() -> Mapping[str, Mapping]:
    return config.schema(SECTION)["properties"]


def resolve(section: Mapping[str, Any]) -> GenerationSettings:
    """Check a section, fill in the defaults (the paper's values for its task) and make settings of it.

    What depends on the model stays None until `GenerationSettings.for_head`.

    Raises
    ------
    ConfigError
        Names each wrong key and says what is allowed.
    """
    wrong = list(config.problems_of(section, SECTION))
    lengths = section.get("lengths")
    if not wrong and isinstance(lengths, Mapping) and lengths["minimum"] > lengths["maximum"]:
        wrong.append(f"lengths: minimum {lengths['minimum']} is above maximum {lengths['maximum']}")
    if wrong:
        raise ConfigError("the settings of the generation task are wrong:\n  " + "\n  ".join(wrong))
    values = config.complete(section, SECTION)
    own = dict(config.schema(SECTION)["task_defaults"][values["task"]])
    if values["dataset"] is not None:
        own.pop("lengths", None)
    return config.build(
        GenerationSettings, {key: own.get(key) if value is None else value for key, value in values.items()}
    )
