"""Settings of predictive tasks on representations."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from dplm2.settings.fields import Section, decides, operates, refers

TaskName = Literal[
    "thermostability", "human-ppi", "metal-ion-binding", "ec", "go-mf", "go-bp", "go-cc", "deeploc-subcellular",
    "deeploc-binary", "regression", "classification", "multi-label", "residue-regression", "residue-classification",
]  # fmt: skip
TASKS: tuple[TaskName, ...] = TaskName.__args__
NINE = TASKS[:9]
ProbeName = Literal["linear", "network", "lora", "full"]
PROBES: tuple[ProbeName, ...] = ProbeName.__args__
FINE_TUNED = ("lora", "full")
OBTAIN_TASK = "download the LMDB data of github.com/westlake-repl/SaProt, or delete this entry"


class RepresentationSettings(Section):
    """A predictive task on the models' representations; see `dplm2 probe`."""

    task: TaskName = decides(
        ..., "One of the paper's nine tasks (DPLM-2, table 6), or what the labels of a table of your own are."
    )
    data: str = refers(
        ...,
        "Folder of SaProt's data (with train, valid and test), or a task table (CSV or Parquet).",
        min_length=1,
        files=("*.csv", "*.parquet", "*/data.mdb", "*/*/data.mdb"),
        obtain=OBTAIN_TASK,
    )
    structures: str | None = refers(
        None,
        "Folder of structure files that are named as the proteins (or as in AlphaFold's database). null: the "
        "structures that a table names, if any.",
        min_length=1,
        files=("*",),
    )
    tracks: Literal["both", "sequence", "structure"] = decides("both", "Tracks that the model sees.")
    probe: ProbeName = decides(
        "linear",
        "linear: ridge or logistic regression; network: one hidden layer; lora, full: the model is trained with a "
        "head, by low-rank updates or in all weights.",
    )
    layer: int | None = decides(None, "After which layer (1: the first, 0: its input, -1: the last). null: the last.")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = decides(
        (0,), "Seeds, one fit each; not of a linear probe, which draws no random numbers.", min_length=1
    )
    epochs: int | None = decides(None, "Maximum number of epochs. null: 300 of network, 50 of lora and full.", ge=1)
    patience: int | None = decides(
        None,
        "Training stops when the validation loss has not fallen for so many epochs. null: 20 of network, 5 of lora and "
        "full.",
        ge=1,
    )
    learning_rate: float | None = decides(
        None, "Learning rate. null: 0.001 of network; of the model 0.0003 with lora and 0.00002 with full.", gt=0
    )
    precision: Literal["float32", "bfloat16"] = decides("float32", "Arithmetic of the model.")
    token_budget: int = operates(8192, "Maximum number of tokens per batch, including padding.", ge=1)

    def idle(self) -> Iterator[str]:
        """Keys that the probe does not read."""
        for key in ("seeds", "epochs", "patience", "learning_rate"):
            if self.probe == "linear" and self.differs(key):
                yield f"{key}: has no effect with probe: linear; omit it"
        if self.layer is not None and self.probe in FINE_TUNED:
            yield f"layer: has no effect with probe: {self.probe}, which reads the last layer; omit it"
        if self.structures is not None and self.tracks == "sequence":
            yield "structures: has no effect with tracks: sequence; omit it"

    @property
    def is_of_the_nine(self) -> bool:
        """Whether the paper's table has the task."""
        return self.task in NINE

    def arguments(self) -> list[str]:
        """The options of ``dplm2 probe`` for these settings, other than the names of files and folders."""
        words = ["--task", self.task]
        for key in ("tracks", "probe", "layer", "epochs", "patience", "learning_rate", "precision", "token_budget"):
            if (value := getattr(self, key)) is not None:
                words += [f"--{key.replace('_', '-')}", str(value)]
        if self.probe != "linear":
            words += ["--seeds", *map(str, self.seeds)]
        return words
