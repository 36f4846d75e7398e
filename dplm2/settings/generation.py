"""Settings of one generation task."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from dplm2.settings.fields import Section, Text, decides, meaning_of, operates, refers, text_like
from dplm2.settings.files import OBTAIN_PROBLEMS
from dplm2.settings.roles import fields_read, plain

TaskName = Literal["co-generation", "sequence", "backbone", "folding", "inverse-folding", "scaffolding", "infilling"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
UNCONDITIONAL: tuple[TaskName, ...] = ("co-generation", "sequence", "backbone")
CHAIN_TASKS = tuple(task for task in TASKS if task != "scaffolding")
WITH_STRUCTURE = tuple(task for task in TASKS if task != "sequence")

NUMBER = r"(\d+(\.\d*)?|\.\d+)"
STRATEGY = rf"^(argmax|gumbel_argmax(@{NUMBER})?|annealing@{NUMBER}:{NUMBER}|temperature@{NUMBER})$"
UNMASKING = rf"^(deterministic|stochastic(@{NUMBER})?)$"
RESIDUES = r"\d+(-\d+)?(\s*,\s*\d+(-\d+)?)*"


def _is_several(value: Any) -> bool:
    return type(value) is int and value > 1


def _one_residue(value: Any) -> Any:
    return str(value) if type(value) is int else value


StrategyText = text_like(STRATEGY, "argmax, gumbel_argmax, gumbel_argmax@T, annealing@HIGH:LOW or temperature@T")
UnmaskingText = text_like(UNMASKING, "deterministic, stochastic or stochastic@SCALE (for example stochastic@1.0)")
Residues = Annotated[
    text_like(rf"^\s*{RESIDUES}\s*$", "residues counted from 1, such as 5,10-20"), BeforeValidator(_one_residue)
]
MaskedResidues = Annotated[
    text_like(rf"^\s*(all|{RESIDUES})\s*$", "residues counted from 1, such as 5,10-20, or all"),
    BeforeValidator(_one_residue),
]

LEFT_TO_THE_MODEL = ("strategy", "unmasking", "nucleus")
# Keys that change neither tokens nor coordinates of a sample.
WITHOUT_EFFECT_ON_SAMPLES = (
    *("samples", "lengths", "problems", "dataset", "split", "references"),
    *("token_budget", "format", "trajectory"),
)
# The paper's values for each task, used for null. What is missing here depends on the model (`completed`).
_FREE = {"steps": 500}
_GIVEN = {"samples": 1, "steps": 100, "strategy": "argmax", "unmasking": "deterministic"}
# Of several samples of one protein argmax would make equal ones. Like the authors' annealing, but from the model's own
# distribution on, since the given track leaves less open.
_GIVEN_SEVERAL = {**_GIVEN, "strategy": "annealing@1.0:0.1"}
_SEVERAL = ("samples", "best_of")
_UNCONDITIONAL = {"lengths": (100, 200, 300, 400, 500), "samples": 100, **_FREE}
TASK_DEFAULTS: Mapping[TaskName, Mapping[str, Any]] = {
    "co-generation": _UNCONDITIONAL,
    "sequence": _UNCONDITIONAL,
    "backbone": _UNCONDITIONAL,
    "folding": _GIVEN,
    "inverse-folding": _GIVEN,
    "scaffolding": {"samples": 100, **_FREE},
    "infilling": {**_FREE, "samples": 1, "steps": 100},
}


def _of_tracks(value: Any) -> tuple[Any, ...]:
    """The values of a setting that may be given by track."""
    return (value.structure, value.sequence) if isinstance(value, Section) else (value,)


class LengthRange(Section):
    """Range from which lengths are drawn uniformly."""

    minimum: int = decides(..., "Minimum length, in residues.", ge=1)
    maximum: int = decides(..., "Maximum length, in residues.", ge=1)

    def contradictions(self) -> Iterator[str]:
        if self.minimum > self.maximum:
            yield f"minimum: {self.minimum} is above maximum ({self.maximum})"


class TrackStrategies(Section):
    """A strategy for each track."""

    structure: StrategyText = decides(..., "Strategy for structure tokens.")
    sequence: StrategyText = decides(..., "Strategy for amino acids.")


class TrackNucleus(Section):
    """A probability mass for each track."""

    structure: float = decides(..., "Probability mass for structure tokens.", gt=0, le=1)
    sequence: float = decides(..., "Probability mass for amino acids.", gt=0, le=1)


class TrackUnmasking(Section):
    """An unmasking method for each track."""

    structure: UnmaskingText = decides(..., "Unmasking of structure tokens.")
    sequence: UnmaskingText = decides(..., "Unmasking of amino acids.")


class GenerationSettings(Section):
    """A generation task, run for every model.

    Keys without effect on the task are refused; null selects the paper's value for the task.
    """

    task: TaskName = decides(
        ...,
        "What is given and what is generated. co-generation: sequence and structure, nothing given; sequence, "
        "backbone: one track, nothing given; folding: structures for given sequences; inverse-folding: sequences "
        "for given structures; scaffolding: proteins around motifs; infilling: any part of given proteins.",
    )
    dataset: str | None = refers(
        None,
        "Name of the dataset whose chains are folded, inverse folded or infilled; for co-generation, sequence and "
        "backbone, the dataset from which lengths are drawn.",
        readers=CHAIN_TASKS,
    )
    split: Literal["train", "validation", "test"] | None = decides(
        None, "Use only the chains of this split of `dataset`. null: all.", readers=CHAIN_TASKS
    )
    lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | LengthRange | None = decides(
        None,
        "Lengths of the proteins, in residues: a list (`samples` of each), or {minimum, maximum} (the length of "
        "each sample is drawn uniformly from the range); not together with `dataset`. null: 100, 200, 300, 400, 500"
        " as in the paper.",
        readers=UNCONDITIONAL,
    )
    samples: int | None = decides(
        None,
        "Number of samples per length of a list, per chain, or per problem; with lengths from a range or a dataset,"
        " the total number. null: 100, or 1 for given chains.",
        ge=1,
    )
    problems: tuple[Text, ...] = refers(
        (),
        "Files, or folders of files. scaffolding: motif problems (YAML in contig notation, as in config/motifs); "
        "infilling: residue tables (CSV or Parquet with columns position, residue, structure_token; empty cells are"
        " generated).",
        readers=("scaffolding", "infilling"),
        files=("*.yaml", "*.yml", "*.csv", "*.parquet"),
        obtain=OBTAIN_PROBLEMS,
    )
    references: str | None = refers(
        None,
        "Folder of the motifs' reference structures. null: the path in each problem, relative to the problem's file.",
        readers=("scaffolding",),
    )
    motif_tokens: Literal["reference", "motif"] = decides(
        "reference",
        "Source of a motif's structure tokens: the whole reference chain (as in the paper; the tokens then contain "
        "information on residues outside the motif), or the motif's residues alone.",
        readers=("scaffolding",),
    )
    fixed: Residues | None = decides(
        None,
        "Residues, counted from 1 (for example 5,10-20), whose structure (folding) or amino acids (inverse folding)"
        " are given in addition.",
        readers=("folding", "inverse-folding"),
    )
    mask_sequence: MaskedResidues | None = decides(
        None,
        "Residues, counted from 1 (for example 5,10-20, or all), whose amino acids are generated.",
        readers=("infilling",),
    )
    mask_structure: MaskedResidues | None = decides(
        None,
        "Residues, counted from 1 (for example 5,10-20, or all), whose structure tokens are generated.",
        readers=("infilling",),
    )
    renoise: float | None = decides(
        None,
        "Generate variants of given proteins: mask this fraction of both tracks at random and run the same fraction"
        " of the steps. `mask_sequence` and `mask_structure` then select what may change (null: everything). Steps "
        "may mask and change more than this fraction, except with `remasking: never`.",
        gt=0,
        le=1,
        readers=("infilling",),
    )
    steps: int | None = decides(
        None, "Number of unmasking steps. null: 500, or 100 for folding, inverse folding and infilling.", ge=1
    )
    steps_per_residue: float | None = decides(
        None,
        "Maximum number of steps per residue of the protein; values above 1 rarely help, since many steps then "
        "change nothing. null: no limit.",
        gt=0,
    )
    strategy: StrategyText | TrackStrategies | None = decides(
        None,
        "How tokens are drawn: argmax; annealing@HIGH:LOW (the temperature decreases over the steps); "
        "temperature@T; gumbel_argmax@T; or {structure: ..., sequence: ...}. null: for folding and inverse folding "
        "argmax, but annealing@1.0:0.1 for several samples or candidates of a chain, which argmax would make equal; "
        "otherwise what the model's config.json recommends, or according to its structure_head: annealing@2.0:0.1, or "
        "annealing@1.1:0.1 for bits. The paper's tables use annealing@2.0:1.0.",
    )
    unmasking: UnmaskingText | TrackUnmasking | None = decides(
        None,
        "Which positions remain masked: deterministic (the least certain), stochastic@SCALE (with Gumbel noise of "
        "that scale added to the certainty), or {structure: ..., sequence: ...}. null: deterministic for folding and "
        "inverse folding; otherwise what the model's config.json recommends, or stochastic@1.0.",
    )
    schedule: Literal["linear", "cosine"] = decides("linear", "How the number of masks decreases over the steps.")
    remasking: Literal["fresh", "kept", "never"] = decides(
        "fresh",
        "Whether a decoded token may be masked again. fresh: yes, ranked by the certainty of the new prediction at "
        "its position (the paper); kept: yes, ranked by the probability of the token itself; never: no, which is "
        "faster.",
    )
    nucleus: Annotated[float, Field(gt=0, le=1)] | TrackNucleus | None = decides(
        None,
        "Probability mass of the most probable tokens from which tokens are drawn, 1: all tokens; or {structure: "
        "..., sequence: ...}. No effect on the choice of argmax. null: 0.95, but 1 on the structure track of a "
        "model with structure_head bits.",
    )
    guidance: float = decides(
        1.0,
        "Classifier-free guidance: logits are u + guidance * (c - u), c with and u without the given tokens. 1: no "
        "guidance; other values require two network passes per step.",
        ge=0,
        readers=("folding", "inverse-folding", "scaffolding", "infilling"),
    )
    amino_acids: Literal["standard", "official"] = decides(
        "standard",
        "standard: only the 20 amino acids are generated; official: all tokens that the authors' list does not "
        "forbid, including '.', '-' and <null_1> (written as X).",
        readers=("co-generation", "sequence", "inverse-folding", "scaffolding", "infilling"),
    )
    best_of: int = decides(1, "Generate this many candidates per sample; keep the most likely.", ge=1)
    likelihood: bool = decides(
        False,
        "Compute the mean log-probability of each sample's generated tokens under the model (log_likelihood), for "
        "filters and the ranking. With `best_of` above 1 it is computed anyway. Takes the time of four steps.",
    )
    token_budget: int = operates(
        8192,
        "Maximum number of tokens per batch (both tracks, including padding). Batches that exceed the memory are "
        "halved.",
        ge=1,
    )
    precision: Literal["auto", "float32", "bfloat16"] = decides(
        "auto",
        "Arithmetic of the network; auto: bfloat16 on a GPU, float32 elsewhere (where a sample does not depend on "
        "its batch).",
    )
    format: Literal["pdb", "mmcif", "bcif", "none"] = decides(
        "pdb",
        "Format of the structure file written for each sample, in addition to the Parquet file: PDB, mmCIF, BinaryCIF "
        "(a tenth of the size) or none.",
        readers=WITH_STRUCTURE,
    )
    trajectory: int = decides(
        0,
        "Save the prediction after every this many steps, as a file of several models per sample. 0: none.",
        ge=0,
        readers=("co-generation", "backbone", "folding", "scaffolding", "infilling"),
    )

    @model_validator(mode="before")
    @classmethod
    def _with_the_tasks_values(cls, given: Any) -> Any:
        """Keys that are missing or null take the paper's values for the task."""
        if not isinstance(given, Mapping) or not isinstance(given.get("task"), str):
            return given
        own = dict(TASK_DEFAULTS.get(given["task"], {}))
        if own == _GIVEN and any(_is_several(given.get(key)) for key in _SEVERAL):
            own = dict(_GIVEN_SEVERAL)
        if given.get("dataset") is not None:
            own.pop("lengths", None)
        return {**given, **{key: value for key, value in own.items() if given.get(key) is None}}

    def contradictions(self) -> Iterator[str]:
        """Contradictions between the values, and keys that the task does not read."""
        for key, info in type(self).model_fields.items():
            readers = meaning_of(info).readers
            if readers is not None and self.task not in readers and self.differs(key):
                yield f"{key}: has no effect on this task ({self.task}), only on {', '.join(readers)}"
        if self.dataset is not None and self.lengths is not None:
            yield "lengths: give either a list, a range or `dataset`"
        if self.dataset is None and self.split is not None:
            yield "split: has no effect without `dataset`"
        for key in filter(lambda key: _is_several(getattr(self, key)), _SEVERAL if self._draws_nothing else ()):
            yield (
                f"{key}: {getattr(self, key)} equal results, since strategy argmax with deterministic unmasking draws "
                f"nothing; leave strategy out or set one that draws, such as {_GIVEN_SEVERAL['strategy']}"
            )

    @property
    def _draws_nothing(self) -> bool:
        """Whether all samples of one protein or one length are equal."""
        draws_input = self.task == "scaffolding" or self.renoise is not None or not self._lengths_are_listed
        strategies, unmaskings = _of_tracks(self.strategy), _of_tracks(self.unmasking)
        return not draws_input and set(strategies) == {"argmax"} and set(unmaskings) == {"deterministic"}

    @property
    def _lengths_are_listed(self) -> bool:
        return self.task not in UNCONDITIONAL or isinstance(self.lengths, tuple)

    @property
    def described(self) -> dict[str, Any]:
        """The keys that have an effect on the task, with their values."""
        return {key: plain(value) for key, _, value in fields_read(self, self.task)}

    @property
    def sampling(self) -> dict[str, Any]:
        """The keys that determine a sample, with their values."""
        return {key: value for key, value in self.described.items() if key not in WITHOUT_EFFECT_ON_SAMPLES}

    @property
    def tracks(self) -> tuple[Literal["structure", "sequence"], ...]:
        """The tracks of the samples."""
        return {"sequence": ("sequence",), "backbone": ("structure",)}.get(self.task, ("structure", "sequence"))

    def completed(self, defaults: Any) -> "GenerationSettings":
        """These settings with the defaults of the model.

        Parameters
        ----------
        defaults
            ``strategy``, ``unmasking`` and ``nucleus`` of the model.
        """
        left = {key: getattr(defaults, key) for key in LEFT_TO_THE_MODEL if getattr(self, key) is None}
        return self.replaced(
            **{key: dict(value) if isinstance(value, Mapping) else value for key, value in left.items()}
        )

    def steps_for(self, length: int) -> int:
        """Number of steps for a protein of this length."""
        if self.steps_per_residue is None:
            return self.steps
        return max(1, min(self.steps, round(self.steps_per_residue * length)))
