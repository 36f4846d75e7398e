"""Folding backend ``esmfold2``: ESMFold2 (Biohub, 2026) through transformers."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from dplm2.core.artifacts import fingerprint
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends.esmfold import identity_of
from dplm2.evaluation.backends.folding import Folded, name_of
from dplm2.settings.evaluation import Esmfold2Settings

BACKBONE_ATOMS = 4  # a residue's atoms begin with N, CA, C, O
SEED_DIGITS = 8
HOW_TO_GET = (
    "download it once with `hf download biohub/ESMFold2 --local-dir DIR` on a machine with network access, "
    "and set evaluation.esmfold2.model to DIR"
)


class Esmfold2:
    """ESMFold2; structures in angstrom, pLDDT 0 to 100 (mean over a residue's atoms).

    Its coordinates are drawn by diffusion. Each sequence has a seed of its own, so that a prediction does not depend on
    those before it.

    Parameters
    ----------
    settings
        Which weights, precision, number of samples, steps.
    device
        Where it runs.

    Raises
    ------
    DPLM2Error
        If the weights are missing or incomplete, or transformers has no ESMFold2; the message says what to do.
    """

    name = "esmfold2"

    def __init__(self, settings: Esmfold2Settings, device: torch.device | str = "cpu") -> None:
        self.settings, self.device = settings, torch.device(device)
        self.model = _open(settings).eval().to(device)
        revision = getattr(self.model.config, "_commit_hash", None)
        drawn = [settings.precision, settings.samples, settings.steps, settings.loops, settings.seed]
        self.fingerprint = fingerprint([identity_of(settings.model), revision, *drawn])

    def batches(self, sequences: Sequence[str]) -> Iterable[list[str]]:
        """One sequence at a time, as the model folds them."""
        return ([sequence] for sequence in sequences)

    @torch.inference_mode()
    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        """Fold sequences one by one."""
        return [self._fold(sequence) for sequence in sequences]

    def _fold(self, sequence: str) -> Folded:
        from transformers.models.esmfold2.protein_utils import prepare_protein_features

        features = prepare_protein_features(sequence, device=self.device)
        chosen = {
            "num_diffusion_samples": self.settings.samples,
            "num_sampling_steps": self.settings.steps,
            "num_loops": self.settings.loops,
        }
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.settings.seed + int(name_of(sequence)[:SEED_DIGITS], 16))
            output = self.model.fold(**features, **{key: value for key, value in chosen.items() if value is not None})
        best = int(output.ptm.float().argmax())
        tokens_N = features["atom_to_token"][0][features["atom_attention_mask"][0]]
        first_L = torch.searchsorted(tokens_N, torch.arange(len(sequence), device=self.device))
        atoms_LA = first_L[:, None] + torch.arange(BACKBONE_ATOMS, device=self.device)
        return Folded(
            output.sample_atom_coords[best][atoms_LA].float().cpu().numpy(),
            np.ascontiguousarray(100 * output.plddt[best].float().cpu().numpy(), dtype=np.float32),
        )


def _open(settings: Esmfold2Settings):  # noqa: ANN202
    try:
        from transformers import EsmFold2Model
    except ImportError as error:
        raise DPLM2Error(
            "folding_backend esmfold2: this transformers has no ESMFold2; run: pip install -U transformers"
        ) from error
    source, dtype = settings.model, torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    try:
        model, loaded = EsmFold2Model.from_pretrained(source, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, HfHubHTTPError, HFValidationError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DPLM2Error(f"evaluation.esmfold2.model: {source} cannot be opened ({reason}); {HOW_TO_GET}") from error
    if missing := sorted(map(str, loaded["missing_keys"])):
        raise DPLM2Error(
            f"evaluation.esmfold2.model: {source} lacks weights ({', '.join(missing[:3])} ...); {HOW_TO_GET}"
        )
    return model
