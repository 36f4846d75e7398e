"""Settings of the training loop, shared by tokenizers and models."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from dplm2.settings.fields import Section, decides, operates

LONGEST_DEFAULT_WARMUP = 2000  # updates; the paper's


class TrainingSettings(Section):
    """Optimiser, batches, precision, devices, checkpoints and logs of one training.

    The defaults are the paper's for the language model."""

    steps: int = decides(100000, "Number of optimiser updates.", ge=1)
    token_budget: int = decides(
        8192,
        "Maximum size of a batch, including padding: residues for the tokenizer, positions of both tracks for the "
        "language model (about twice the number of residues). A chain that exceeds it forms a batch of its own.",
        ge=1,
    )
    max_batch_size: int | None = decides(800, "Maximum number of chains per batch. null: no limit.", ge=1)
    sample_by: Literal["chain", "cluster"] = decides(
        "chain", "Definition of an epoch: every chain once, or one randomly chosen chain of every cluster."
    )
    accumulate: int = decides(
        1,
        "Batches per update, over all processes; their gradients are averaged with equal weights, regardless of the"
        " number of masked residues (as in the authors' code). A multiple of the number of processes. The authors "
        "train with one batch per GPU: 8 GPUs correspond to `accumulate: 8, devices: 8`.",
        ge=1,
    )
    optimizer: Literal["adamw", "muon"] = decides(
        "adamw",
        "adamw (the paper), or muon (Jordan et al. 2024): matrices are updated with their orthogonalised momentum, "
        "all other weights (including embeddings and the output head over tokens) with AdamW. With it a small "
        "structure tokenizer needed half the steps, at higher learning rates, and a small language model learned "
        "slightly more in the same number of steps. Each update costs a few additional matrix products.",
    )
    learning_rate: float = decides(0.0001, "Learning rate after the warm-up.", gt=0)
    initial_learning_rate: float = decides(
        1e-07, "Learning rate of the first update; it increases linearly during the warm-up.", ge=0
    )
    final_learning_rate: float | None = decides(
        None, "Learning rate at the end of the decay. null: one tenth of learning_rate.", ge=0
    )
    warmup_steps: int | None = decides(
        None, "Updates of the linear warm-up. null: one tenth of steps, at most 2000.", ge=0
    )
    schedule: Literal["polynomial", "constant"] = decides(
        "polynomial",
        "Learning rate after the warm-up: polynomial decay to final_learning_rate at the last step, or constant.",
    )
    decay_power: float = decides(1.0, "Exponent of the polynomial decay; 1 is linear.", gt=0)
    weight_decay: float = decides(0.01, "Decoupled weight decay.", ge=0)
    decay_all: bool = decides(
        True,
        "Apply weight decay to all trained weights (as the authors do). false: exclude biases, normalisation "
        "weights and embeddings.",
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = decides(
        (0.9, 0.98), "Exponential decay rates of AdamW's two moments."
    )
    epsilon: float = decides(1e-08, "Term added to the denominator of AdamW.", gt=0)
    gradient_clip: float | None = decides(
        0.5, "Maximum norm of the gradient; larger gradients are scaled down. null: no clipping.", gt=0
    )
    ema_decay: float | None = decides(
        None,
        "Decay rate of an exponential moving average of the trained weights; validation and the final model use the"
        " average. null: no average.",
        gt=0,
        lt=1,
    )
    precision: Literal["fp32", "bf16"] = decides(
        "fp32", "Arithmetic of the forward and backward pass; with bf16, weights and optimiser states remain in fp32."
    )
    activation_checkpointing: bool = operates(
        False,
        "Recompute the activations of each block in the backward pass instead of storing them: less memory, about "
        "one third more time, the same gradients.",
    )
    compile: bool = operates(
        False, "Compile the network with torch.compile (on a GPU block by block): a slower start, faster steps."
    )
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = operates(
        1,
        "Number of processes on each machine, each with its own GPU if there are GPUs; auto uses all GPUs. The "
        "number changes the weights only by rounding, and training can resume with a different one. Under torchrun, "
        "torchrun determines the number: leave this key out.",
    )
    nodes: int = operates(
        1,
        "Number of machines. With more than one, the workflow starts the processes with srun inside a Slurm job of as "
        "many nodes; from the command line, start them with srun or torchrun (docs/cluster.md). As with `devices`, "
        "the number changes the weights only by rounding.",
        ge=1,
    )
    strategy: Literal["auto", "ddp", "fsdp"] = operates(
        "auto",
        "With several processes: ddp (each holds the whole network) or fsdp (weights, gradients and optimiser "
        "states are sharded). auto is ddp.",
    )
    workers: int = operates(
        0,
        "Number of processes that prepare batches; it does not affect the results. 0: the training process prepares"
        " them.",
        ge=0,
    )
    validate_every: int | None = operates(
        1000, "Steps between validations; the last step is always validated. null: only the last step.", ge=1
    )
    log_every: int = operates(50, "Steps per row of metrics.csv; each row contains means over its steps.", ge=1)
    save_every: int | None = operates(None, "Steps between checkpoints. null: by time only.", ge=1)
    save_every_seconds: float | None = operates(
        600,
        "Seconds between checkpoints; a checkpoint is written when either interval has passed. null: by steps only.",
        gt=0,
    )
    keep: int = operates(2, "Number of checkpoints to keep; if the latest is damaged, the one before it is used.", ge=1)
    time_limit_minutes: float | None = operates(
        None,
        "Save and exit with status 75 after this time, for queues that kill jobs without a signal; the next run "
        "resumes. null: no limit.",
        gt=0,
    )
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = operates(
        (),
        "Additional destinations of the rows of metrics.csv. tensorboard writes to the state folder; wandb is "
        "configured by its own environment variables.",
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
        rate = self.learning_rate
        if self.warmup >= self.steps:
            yield f"warmup_steps: {self.warmup} is not less than steps ({self.steps})"
        if self.schedule == "polynomial" and self.last_learning_rate > rate:
            yield f"final_learning_rate: {self.last_learning_rate} is above learning_rate ({rate})"
        if self.initial_learning_rate > rate:
            yield f"initial_learning_rate: {self.initial_learning_rate} is above learning_rate ({rate})"
        if self.optimizer == "muon" and self.strategy == "fsdp":
            yield "optimizer: muon needs unsharded matrices; use strategy: ddp instead of fsdp"
        if self.save_every is None and self.save_every_seconds is None:
            yield "save_every: give this key or save_every_seconds; otherwise interrupted training cannot resume"
        processes = self.nodes * (self.devices if isinstance(self.devices, int) else 1)
        if self.accumulate % processes:
            where = f"{self.nodes} nodes" if self.devices == "auto" else f"{processes} devices"
            yield f"accumulate: {self.accumulate} batches per update cannot be shared evenly by {where}"

    def idle(self) -> Iterator[str]:
        if self.schedule == "constant":
            for key in ("final_learning_rate", "decay_power"):
                if self.differs(key):
                    yield f"{key}: has no effect with schedule: constant; omit it"
        if self.warmup == 0 and self.differs("initial_learning_rate"):
            yield "initial_learning_rate: has no effect without warm-up; omit it or set warmup_steps"
        if self.weight_decay == 0 and self.differs("decay_all"):
            yield "decay_all: has no effect with weight_decay: 0; omit it"
