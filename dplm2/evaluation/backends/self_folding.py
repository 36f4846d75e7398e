"""Backend ``self``: the model folds its own sequences, and designs sequences for its own backbones.

It needs no further weights and no network access, and measures whether the model agrees with itself; it is not an
independent assessment, so values with this backend are not comparable with published ones.
"""

from collections.abc import Iterable, Sequence

import torch

from dplm2.core.artifacts import fingerprint
from dplm2.evaluation.backends.folding import Folded, name_of
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.generation.model import DPLM2
from dplm2.settings.evaluation import SelfSettings


class SelfFolding:
    """The model as a folding program.

    Parameters
    ----------
    folder
        Of the model, or a hub id.
    settings
        Steps and batches.
    seed
        Seed of the sampling; without effect on the tokens, which are the most likely ones.
    device
        Where it runs.
    tokenizer
        Folder or hub id; the model's own by default.
    """

    name = "self"

    def __init__(
        self,
        folder: str,
        settings: SelfSettings,
        seed: int = 0,
        device: torch.device | str = "cpu",
        tokenizer: str | None = None,
    ) -> None:
        self.model, self.settings, self.seed = DPLM2.from_pretrained(folder, tokenizer, device), settings, seed
        # The structure tokens of a model are meaningless without the tokenizer that decodes them.
        self.fingerprint = fingerprint([self.model.fingerprint, self.model.tokenizer.fingerprint, settings.steps])

    def batches(self, sequences: Sequence[str]) -> Iterable[list[str]]:
        """Groups of similar length."""
        ordered, size = sorted(sequences, key=len, reverse=True), self.settings.batch_size
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        """Fold one group."""
        named = {name_of(sequence): sequence for sequence in sequences}
        samples = self.model.generate("folding", sequences=named, steps=self.settings.steps, seed=self.seed)
        return [Folded(sample.backbone, sample.tokenizer_plddt) for sample in samples]


def design_sequences(
    folder: str,
    samples: Sequence[EvaluatedSample],
    settings: SelfSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tokenizer: str | None = None,
) -> list[list[str]]:
    """One sequence for each sample's backbone, by inverse folding with the model."""
    model = DPLM2.from_pretrained(folder, tokenizer, device)
    backbones = {sample.sample_id: sample.backbone for sample in samples}
    designed = model.generate("inverse-folding", backbones=backbones, steps=settings.steps, seed=seed)
    return [[sample.sequence] for sample in designed]
