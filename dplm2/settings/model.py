"""Settings of one language model. Chain lengths are in residues."""

import math
from collections.abc import Iterator
from typing import Literal

from dplm2.settings.fields import Section, decides, operates, refers, section
from dplm2.settings.files import OBTAIN_MODEL, WEIGHTS, Model
from dplm2.settings.hub import SequenceHub
from dplm2.settings.training import TrainingSettings

SCRATCH = "scratch"


class NetworkSettings(Section):
    """Size of the ESM-2 network, only for `warmup.source: scratch`; every other source determines its own.

    ESM-2's sizes: 150M is 640, 30, 20, 2560; 650M is 1280, 33, 20, 5120; 3B is 2560, 36, 40, 10240.
    """

    hidden_size: int = decides(..., "Width of the network; a multiple of twice the number of heads.", ge=2)
    layers: int = decides(..., "Number of transformer layers.", ge=1)
    heads: int = decides(..., "Number of attention heads.", ge=1)
    intermediate_size: int = decides(..., "Width of the feed-forward layers; 4 times hidden_size in ESM-2.", ge=1)
    attention: Literal["random", "near"] = decides(
        "random",
        "Initialisation of the attention heads. `random`: as in ESM-2. `near`: each head attends to one position at"
        " most four residues away, in both tracks; a small model then learns from neighbouring residues within "
        "hundreds of steps (without it, not within the 900 steps tested).",
    )

    def contradictions(self) -> Iterator[str]:
        if self.hidden_size % (2 * self.heads):
            yield f"hidden_size: {self.hidden_size} is not a multiple of twice the number of heads ({self.heads})"


class WarmupSettings(Section):
    """Initial weights of the multimodal training (paper, section 3.1)."""

    source: Model = refers(
        "scratch",
        "Initial weights: `scratch` (a network of the size `network`), a folder or Hugging Face id of an ESM-2 or "
        "DPLM model, a fair-esm name (esm2_t30_150M_UR50D) or .pt file, the folder of a multimodal model of this "
        "package, or `small`, the one that comes with it.",
        min_length=1,
        files=WEIGHTS,
        hub=True,
    )
    model: str | None = refers(
        None,
        "Name of another model of this configuration whose trained weights are the initial weights (for example, "
        "for self-mixup as a second stage). Replaces `source`.",
        min_length=1,
    )
    embedding_scaling: Literal["auto", "none", "once", "released", "released_bit"] = decides(
        "auto",
        "ESM-2's scaling of the input embeddings by the fraction of masks. `none`: no scaling. `once`: as in ESM-2."
        " `released`: twice, as in the released DPLM-2 models. `released_bit`: as in DPLM-2 Bit, for the amino "
        "acids alone and then for both tracks. `auto`: as in the source, so that the model reproduces the source's "
        "logits on sequences; `none` for scratch.",
    )
    structure_tokens: Literal["random", "code"] = decides(
        "random",
        "Initialisation of the new structure tokens in embeddings and output head. `random`: independently (paper)."
        " `code`: as smooth functions of the values that the tokenizer's codes stand for, so that similar codes "
        "start with similar rows; a small model then needs fewer examples of each code. Not for a source that has "
        "structure tokens, nor for `structure_head: bits`, where similar codes share bits anyway.",
    )
    dropout: float = decides(
        0.1, "Dropout on the outputs of attention and feed-forward layers during training.", ge=0, lt=1
    )
    sequence_stage: Literal["auto", "always", "never"] = decides(
        "auto",
        "Training by absorbing diffusion on sequences alone (as the predecessor, DPLM) before the structure tokens "
        "are added. `auto`: for `source: scratch` only.",
    )
    sequence_files: tuple[str, ...] = refers(
        (),
        "Sequences of the sequence stage: FASTA or Parquet files (column `sequence`), FASTA optionally gzipped. "
        "They are streamed once into a memory-mapped file in the state folder, whatever their number. Empty: the "
        "sequences of the model's own datasets.",
        files=("*",),
    )
    sequence_hub: SequenceHub | None = decides(
        None,
        "Sequences of the sequence stage from tables on the hub, in addition to sequence_files: the authors' UniRef50 "
        "(repository: airkingbd/uniref50, columns: {sequence: seq}), or others.",
    )
    sequence_max_length: int = decides(
        1022, "Longer sequences are cropped to a random window of this many residues in the sequence stage.", ge=1
    )
    sequence_steps: int = decides(500, "Number of diffusion steps of the sequence stage.", ge=1)
    sequence_weighting: Literal["linear", "constant"] = decides(
        "linear", "Weight of a time step in the loss of the sequence stage: `linear` 1 - (t - 1) / steps, `constant` 1."
    )
    sequence_training: TrainingSettings = section("Optimiser, batches and checkpoints of the sequence stage.")

    @property
    def trains_on_sequences(self) -> bool:
        """Whether the sequence stage runs."""
        return self.sequence_stage == "always" or (self.sequence_stage == "auto" and self.from_scratch)

    @property
    def from_scratch(self) -> bool:
        """Whether the initial weights are random."""
        return self.source == SCRATCH and self.model is None

    def idle(self) -> Iterator[str]:
        if self.model is not None and self.source != SCRATCH:
            yield "source: has no effect together with warmup.model; omit one of them"
        if not self.trains_on_sequences:
            for key in type(self).model_fields:
                if key.startswith("sequence_") and key != "sequence_stage" and self.differs(key):
                    yield f"{key}: has no effect, the sequence stage does not run (warmup.sequence_stage); omit it"


class LoraSettings(Section):
    """Low-rank adaptation (paper, section 3.1): low-rank updates of the attention and feed-forward matrices are
    trained, embeddings and output head fully. The updates are merged into the weights at the end."""

    enabled: bool = decides(False, "Train low-rank updates instead of all weights.")
    rank: int = decides(16, "Rank of the updates.", ge=1)
    alpha: float = decides(32, "Scaling of the updates: alpha / rank.", gt=0)
    dropout: float = decides(0.1, "Dropout on the input of the updates.", ge=0, lt=1)

    def idle(self) -> Iterator[str]:
        for key in ("rank", "alpha", "dropout"):
            if not self.enabled and self.differs(key):
                yield f"{key}: has no effect with enabled: false; omit it"


class TaskRatios(Section):
    """Fractions of the training tasks; they sum to 1."""

    single_modality: float = decides(
        0.25, "Both tracks are noised at their own times, and neither sees the other.", ge=0, le=1
    )
    folding: float = decides(0.25, "The sequence is given, the structure is noised.", ge=0, le=1)
    inverse_folding: float = decides(0.25, "The structure is given, the sequence is noised.", ge=0, le=1)
    independent: float = decides(0.0, "Both tracks are noised at their own times, and each sees the other.", ge=0, le=1)
    joint: float = decides(0.25, "Both tracks are noised at the same time.", ge=0, le=1)

    def contradictions(self) -> Iterator[str]:
        total = sum(getattr(self, key) for key in type(self).model_fields)
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            shares = ", ".join(f"{key} {getattr(self, key):g}" for key in type(self).model_fields)
            yield f": the fractions sum to {total:g}, not to 1 ({shares})"


class DiffusionSettings(Section):
    """Training objective: absorbing diffusion over both tracks (paper, section 3.1)."""

    steps: int = decides(500, "Number of time steps; t is drawn from 1 to this number.", ge=1)
    schedule: Literal["linear", "cosine"] = decides(
        "linear", "Fraction of a track that is masked at time t: `linear` t / steps, `cosine` 1 - cos(pi t / 2 steps)."
    )
    weighting: Literal["linear", "constant"] = decides(
        "linear", "Weight of a time step in the loss: `linear` 1 - (t - 1) / steps, `constant` 1."
    )
    task_ratios: TaskRatios = section("Fractions of the training tasks; they sum to 1.")
    task_assignment: Literal["draw", "split"] = decides(
        "draw",
        "`draw`: the task of each chain is drawn with the probabilities above, so that batches of few long chains "
        "include all tasks. `split`: as the authors do, int(chains * fraction) of each batch are assigned to a task"
        " and the rest is joint, so that a batch of fewer than 4 chains is all joint.",
    )
    classes: Literal["track", "all"] = decides(
        "track",
        "Classes of the cross-entropy: `track`, those of the position's own track, which are all that sampling "
        "allows (and cheapest); `all`, the whole vocabulary, as the authors do.",
    )
    self_mixup: Literal["off", "clean", "released"] = decides(
        "off",
        "Second stage from a trained model (paper, section A.1): the model learns to correct its own predictions. "
        "`clean`: given tracks are unchanged, predictions are codes and amino acids. `released`: as in the authors'"
        " code, which also masks given tracks and predicts over the whole vocabulary.",
    )
    unobserved_structure: Literal["mask", "unknown", "learn"] = decides(
        "mask",
        "Structure tokens of residues without coordinates: `mask` shows the mask, `unknown` shows <unk_struct>, and"
        " neither contributes to the loss; `learn` treats them as any other token, as the authors do.",
    )
    unknown_residues: Literal["skip", "learn"] = decides(
        "skip",
        "Residues other than the 20 amino acids: `skip` shows them, never masks them and excludes them from the "
        "loss; `learn` treats them as any other, as the authors do.",
    )
    max_length: int = decides(512, "Longer chains are cropped to a random window of this many residues.", ge=1)
    crop_probability: float = decides(
        0.5, "Probability that a chain is cropped to a random window of random length.", ge=0, le=1
    )
    crop_min_length: int = decides(
        60, "Minimum length of the random window, in residues; shorter chains are not cropped.", ge=1
    )
    validation_chains: int = operates(
        128,
        "Maximum number of chains used for validation during training, the first of the validation split (of the "
        "training chains if there is none).",
        ge=1,
    )

    def contradictions(self) -> Iterator[str]:
        if self.crop_probability > 0 and self.crop_min_length > self.max_length:
            yield f"crop_min_length: {self.crop_min_length} is above max_length ({self.max_length})"

    def idle(self) -> Iterator[str]:
        if self.crop_probability == 0 and self.differs("crop_min_length"):
            yield "crop_min_length: has no effect with crop_probability: 0; omit it"


class ModelSettings(Section):
    """A language model: either trained on `datasets` from the weights that `warmup` names, or `pretrained` (a folder
    or hub id; without training, and only together with `tokenizer`)."""

    tokenizer: str = refers(..., "Name of the structure tokenizer.", min_length=1)
    datasets: tuple[str, ...] = refers((), "Names of the datasets to train on; only their training chains are used.")
    pretrained: Model | None = refers(
        None,
        "Folder or hub id (owner/name or owner/name@revision, such as airkingbd/dplm2_650m) of a trained model, or "
        "`small` (the one that comes with the package), used without further training.",
        min_length=1,
        files=WEIGHTS,
        hub=True,
        obtain=OBTAIN_MODEL,
    )
    network: NetworkSettings | None = decides(
        None,
        "Size of the ESM-2 network, only for `warmup.source: scratch`; every other source determines its own. "
        "ESM-2's sizes: 150M is 640, 30, 20, 2560; 650M is 1280, 33, 20, 5120; 3B is 2560, 36, 40, 10240.",
    )
    structure_head: Literal["codes", "bits", "pairs"] | None = decides(
        None,
        "How structure tokens enter and leave the network. `codes`: each has an embedding and an output of its own "
        "(DPLM-2). `bits`: each is represented by its bits, predicted independently (DPLM-2 Bit). `pairs`: each is "
        "represented by a few levels, according to the tokenizer's bits_per_value; its embedding and output are "
        "sums over levels and pairs of levels, which learn several times faster from little data. null: codes, or "
        "the head of a source that has structure tokens.",
    )
    warmup: WarmupSettings = section("Initial weights of the multimodal training (paper, section 3.1).")
    lora: LoraSettings = section(
        "Low-rank adaptation (paper, section 3.1): low-rank updates of the attention and feed-forward matrices are "
        "trained, embeddings and output head fully. The updates are merged into the weights at the end."
    )
    diffusion: DiffusionSettings = section(
        "Training objective: absorbing diffusion over both tracks (paper, section 3.1)."
    )
    training: TrainingSettings = section("Optimiser, batches and checkpoints of the multimodal training.")

    def contradictions(self) -> Iterator[str]:
        """Contradictions between the values. If the weights determine the head, the head reports them."""
        head = self.structure_head
        if head in ("bits", "pairs") and self.diffusion.classes == "all":
            yield f"diffusion.classes: all: with structure_head {head} each track has its own softmax; use track"
        if head == "bits" and self.diffusion.unobserved_structure == "unknown":
            yield "diffusion.unobserved_structure: unknown: structure_head bits has no <unk_struct>; use mask or learn"
        if head == "bits" and self.warmup.structure_tokens == "code":
            yield "warmup.structure_tokens: code: structure_head bits has no embedding rows to initialise; omit it"

    def idle(self) -> Iterator[str]:
        if self.pretrained is not None:
            for key in type(self).model_fields:
                if key not in ("pretrained", "tokenizer") and self.differs(key):
                    yield f"{key}: has no effect together with 'pretrained'; omit it"
        elif self.network is not None and not self.warmup.from_scratch:
            yield "network: has no effect, the source of the warm-up determines the size; omit it"


def sequence_diffusion(warmup: WarmupSettings) -> DiffusionSettings:
    """The objective of the sequence stage: one track, no tasks, cropping only of sequences that are too long."""
    return DiffusionSettings.make(
        steps=warmup.sequence_steps,
        weighting=warmup.sequence_weighting,
        max_length=warmup.sequence_max_length,
        crop_probability=0.0,
    )
