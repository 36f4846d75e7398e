"""Folding backend ``esmfold``: ESMFold (Lin et al., Science 379 (2023) 1123) through transformers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import EsmConfig, EsmForProteinFolding
from transformers.models.esm.openfold_utils import residue_constants

from dplm2.core.artifacts import fingerprint, sha256_of_file
from dplm2.core.batching import by_length
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends.folding import Folded
from dplm2.settings.evaluation import EsmfoldSettings

LONG_CHAIN, LONG_CHAIN_CHUNK = 512, 64
BACKBONE_ATOMS = slice(0, 4)  # of the 14 atom positions of a residue: N, CA, C, O
HOW_TO_GET = (
    "download it once with `hf download facebook/esmfold_v1 --local-dir DIR` on a machine with network access, "
    "and set evaluation.esmfold.model to DIR"
)


class Esmfold:
    """ESMFold; structures in angstrom, pLDDT 0 to 100 (mean over a residue's heavy atoms).

    Parameters
    ----------
    settings
        Which weights, precision, chunks, batches.
    device
        Where it runs.

    Raises
    ------
    DPLM2Error
        If the weights are missing or incomplete; the message says how to get them.
    """

    name = "esmfold"

    def __init__(self, settings: EsmfoldSettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        self.model = _open(settings.model).eval().to(device)
        if settings.precision == "bfloat16":
            self.model.esm.bfloat16()
        self.device = torch.device(device)
        revision = getattr(self.model.config, "_commit_hash", None)
        self.fingerprint = fingerprint([identity_of(settings.model), revision, settings.precision, settings.recycles])

    def batches(self, sequences: Sequence[str]) -> Iterable[list[str]]:
        """Groups of similar length within the budget of residues."""
        groups = by_length([len(sequence) for sequence in sequences], self.settings.residues_per_batch)
        return ([sequences[index] for index in group] for group in groups)

    @torch.inference_mode()
    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        """Fold a group in one pass."""
        chunk = self.settings.chunk_size
        if chunk is None and max(map(len, sequences)) > LONG_CHAIN:
            chunk = LONG_CHAIN_CHUNK
        self.model.trunk.set_chunk_size(chunk)
        inputs = {name: value.to(self.device) for name, value in _inputs(sequences).items()}
        output = self.model(**inputs, num_recycles=self.settings.recycles)
        positions = output["positions"][-1].float().cpu().numpy()
        exists = output["atom37_atom_exists"].float()
        plddt = (100 * (output["plddt"].float() * exists).sum(-1) / exists.sum(-1).clamp(min=1)).cpu().numpy()
        return [
            Folded(
                np.ascontiguousarray(positions[row, : len(sequence), BACKBONE_ATOMS], dtype=np.float32),
                np.ascontiguousarray(plddt[row, : len(sequence)], dtype=np.float32),
            )
            for row, sequence in enumerate(sequences)
        ]


def _inputs(sequences: Sequence[str]) -> dict[str, torch.Tensor]:
    longest = max(map(len, sequences))
    ids_BL = torch.zeros(len(sequences), longest, dtype=torch.long)
    there_BL = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids_BL[row, : len(sequence)] = torch.tensor([residue_constants.restype_order[letter] for letter in sequence])
        there_BL[row, : len(sequence)] = 1
    return {"input_ids": ids_BL, "attention_mask": there_BL, "position_ids": torch.arange(longest).expand_as(ids_BL)}


def _open(source: str) -> EsmForProteinFolding:
    try:
        config = EsmConfig.from_pretrained(source)
        if not config.is_folding_model:
            raise DPLM2Error(f"evaluation.esmfold.model: {source} is not an ESMFold model; {HOW_TO_GET}")
        # Half precision, set in the published configuration, gives NaN in the confidence.
        config.esmfold_config.fp16_esm = False
        model, loaded = EsmForProteinFolding.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DPLM2Error(f"evaluation.esmfold.model: {source} cannot be opened ({reason}); {HOW_TO_GET}") from error
    # Contacts are not used in folding, and the published weights come without that head.
    missing = [key for key in map(str, loaded["missing_keys"]) if "contact_head" not in key]
    if missing:
        raise DPLM2Error(
            f"evaluation.esmfold.model: {source} lacks weights ({', '.join(missing[:3])} ...); {HOW_TO_GET}"
        )
    return model


def identity_of(source: str) -> str:
    """Identity of weights: the files of a folder, else the hub id."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return fingerprint([sha256_of_file(path) for path in weights])
