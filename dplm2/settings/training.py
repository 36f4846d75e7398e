"""Settings of the training loop, shared by tokenizers and models."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from dplm2.settings.fields import Section, decides, operates

LONGEST_DEFAULT_WARMUP = 2000  # updates; the paper's


class TrainingSettings(Section):
    """Optimiser, batches, precision, devices, checkpoints and logs of one training.

    The defaults are the paper's for the language model."""

    steps: int = decides(100000, "Updates of the weights.", ge=1)
    token_budget: int = decides(
        8192,
        "Most that the network sees in one batch, padding counted: residues for the tokenizer, positions of "
        "both tracks for the language model (about twice the residues). A chain that alone costs more makes "
        "a batch of its own.",
        ge=1,
    )
    max_batch_size: int | None = decides(
        800,
        "Most chains in one batch, however short they are. null: no such bound.",
        ge=1,
    )
    sample_by: Literal["chain", "cluster"] = decides(
        "chain",
        "What an epoch is: every chain once, or one randomly chosen chain of every cluster.",
    )
    accumulate: int = decides(
        1,
        "Batches per update, shared out among all processes; their gradients are averaged, each batch counting the "
        "same, however many of its residues are masked (as in the authors' code). A multiple of the number of "
        "processes. The authors train with one batch per GPU: 8 GPUs are `accumulate: 8, devices: 8`.",
        ge=1,
    )
    optimizer: Literal["adamw", "muon"] = decides(
        "adamw",
        "adamw (the paper); or muon (Jordan et al. 2024): matrices move along their orthogonalised momentum,"
        " all else (embeddings and the output head over tokens among it) by AdamW. A small structure "
        "tokenizer needed half the steps with it, at higher rates; a small language model learns somewhat "
        "more from as many. A step costs a few products of each matrix with itself.",
    )
    learning_rate: float = decides(0.0001, "Learning rate after the warm-up.", gt=0)
    initial_learning_rate: float = decides(
        1e-07,
        "Learning rate of the first update; from there it rises linearly during the warm-up.",
        ge=0,
    )
    final_learning_rate: float | None = decides(
        None,
        "Learning rate that the decay ends at. null: a tenth of learning_rate.",
        ge=0,
    )
    warmup_steps: int | None = decides(
        None,
        "Updates of the linear warm-up. null: a tenth of steps, at most 2000.",
        ge=0,
    )
    schedule: Literal["polynomial", "constant"] = decides(
        "polynomial",
        "After the warm-up: polynomial decay to final_learning_rate at the last step, or constant.",
    )
    decay_power: float = decides(1.0, "Power of the polynomial decay; 1 is linear.", gt=0)
    weight_decay: float = decides(0.01, "Decoupled weight decay.", ge=0)
    decay_all: bool = decides(
        True,
        "Decay every trained weight (the authors do). false: leave out biases, normalisation weights and embeddings.",
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = decides(
        (0.9, 0.98),
        "AdamW's two averaging factors.",
    )
    epsilon: float = decides(1e-08, "AdamW's term in the denominator.", gt=0)
    gradient_clip: float | None = decides(
        0.5,
        "Largest norm of the whole gradient; a longer one is scaled down to it. null: no clipping.",
        gt=0,
    )
    ema_decay: float | None = decides(
        None,
        "Keep an exponential moving average of the trained weights with this factor; validation and the "
        "finished model then use the average. null: none.",
        gt=0,
        lt=1,
    )
    precision: Literal["fp32", "bf16"] = decides(
        "fp32",
        "Arithmetic of the forward and backward pass; with bf16 the weights and the optimiser stay in fp32.",
    )
    activation_checkpointing: bool = operates(
        False,
        "Compute each block's activations again in the backward pass instead of keeping them: less memory, "
        "about a third more time, the same gradients.",
    )
    compile: bool = operates(
        False,
        "Compile the network with torch.compile (on a GPU block by block): some time at the start, faster steps.",
    )
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = operates(
        1,
        "Processes on this machine, each with its own GPU if there are GPUs; auto takes every GPU. The number changes "
        "the weights only by rounding, and training may continue with another one. Under "
        "torchrun (needed for several machines) torchrun's numbers hold and this stays as it is.",
    )
    strategy: Literal["auto", "ddp", "fsdp"] = operates(
        "auto",
        "With several processes: ddp (each holds the whole network) or fsdp (weights, gradients and "
        "optimiser are shared out). auto is ddp.",
    )
    workers: int = operates(
        0,
        "Processes that prepare batches ahead; batches and results do not depend on it. 0: the training "
        "process prepares them.",
        ge=0,
    )
    validate_every: int | None = operates(
        1000,
        "Steps between validations; one follows the last step in any case. null: only that one.",
        ge=1,
    )
    log_every: int = operates(50, "Steps per row of metrics.csv; a row holds means over its steps.", ge=1)
    save_every: int | None = operates(None, "Steps between checkpoints. null: by time alone.", ge=1)
    save_every_seconds: float | None = operates(
        600,
        "Seconds between checkpoints; whichever of the two keys comes first. null: by steps alone.",
        gt=0,
    )
    keep: int = operates(
        2,
        "Checkpoints kept, newest first; the second is what a damaged newest one falls back to.",
        ge=1,
    )
    time_limit_minutes: float | None = operates(
        None,
        "Save and leave with exit status 75 after this time, for queues that kill without a signal; running "
        "again goes on from there. null: no limit.",
        gt=0,
    )
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = operates(
        (),
        "Where the rows of metrics.csv go besides. tensorboard writes into the state folder; wandb follows "
        "its own environment variables.",
    )

    @property
    def warmup(self) -> int:
        """Updates of the warm-up."""
        default = min(LONGEST_DEFAULT_WARMUP, self.steps // 10)
        return default if self.warmup_steps is None else self.warmup_steps

    @property
    def last_learning_rate(self) -> float:
        """Learning rate at the end of the decay."""
        return self.learning_rate / 10 if self.final_learning_rate is None else self.final_learning_rate

    def contradictions(self) -> Iterator[str]:
        """Contradictions between the values."""
        rate = self.learning_rate
        if self.warmup >= self.steps:
            yield f"warmup_steps: {self.warmup} is not less than steps ({self.steps})"
        if self.schedule == "polynomial" and self.last_learning_rate > rate:
            yield f"final_learning_rate: {self.last_learning_rate} is above learning_rate ({rate})"
        if self.initial_learning_rate > rate:
            yield f"initial_learning_rate: {self.initial_learning_rate} is above learning_rate ({rate})"
        if self.optimizer == "muon" and self.strategy == "fsdp":
            yield "optimizer: muon needs whole matrices, and strategy: fsdp cuts them; use ddp"
        if self.save_every is None and self.save_every_seconds is None:
            yield "save_every: give it or save_every_seconds; without either, interrupted training cannot resume"
        if isinstance(self.devices, int) and self.accumulate % self.devices:
            yield f"accumulate: {self.accumulate} batches per update cannot be shared evenly by {self.devices} devices"

    def idle(self) -> Iterator[str]:
        """Keys that have no effect beside the others."""
        if self.schedule == "constant":
            for key in ("final_learning_rate", "decay_power"):
                if self.differs(key):
                    yield f"{key}: has no effect with schedule: constant; leave it out"
        if self.warmup == 0 and self.differs("initial_learning_rate"):
            yield "initial_learning_rate: has no effect without warm-up; leave it out or set warmup_steps"
        if self.weight_decay == 0 and self.differs("decay_all"):
            yield "decay_all: has no effect with weight_decay: 0; leave it out"
