"""Sequence encoders of transformers (ESM C, ESM-2) as other sources of representations, to compare with.

Shapes: B batch, T tokens, L residues, D width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from dplm2.core.artifacts import fingerprint, sha256_of_file
from dplm2.core.batching import by_length
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.memory import split_on_out_of_memory
from dplm2.generation.task import Target
from dplm2.language.layout import EDGES
from dplm2.representations.embedding import Embedding, Vectors, table_of

FAMILIES = ("esmc", "esm")
OPEN = "?"  # a residue that is left open


class SequenceEncoder:
    """A masked language model of sequences: ESM C or ESM-2.

    Parameters
    ----------
    source
        Folder or hub id, such as ``biohub/ESMC-600M`` or ``facebook/esm2_t33_650M_UR50D``.
    device
        Where it runs.

    Raises
    ------
    DPLM2Error
        If it cannot be opened, or is of another family.
    """

    def __init__(self, source: str, device: torch.device | str = "cpu") -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(source)
            if config.model_type not in FAMILIES:
                raise DPLM2Error(f"--encoder {source}: a model of type {config.model_type}; known: ESM C, ESM-2")
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            model, loaded = AutoModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, KeyError, HfHubHTTPError, HFValidationError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DPLM2Error(f"--encoder {source}: cannot be opened ({reason})") from error
        # The pooler and the contact head are not read.
        if missing := [key for key in map(str, loaded["missing_keys"]) if not key.startswith(("pooler", "contact"))]:
            raise DPLM2Error(f"--encoder {source}: weights are missing ({', '.join(missing[:3])} ...)")
        self._model = model.eval().to(device)
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        weights = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
        revision = getattr(config, "_commit_hash", None)
        self.fingerprint = fingerprint([*map(sha256_of_file, weights)] or [source, revision])

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._model.device

    def embed(self, targets: Sequence[Target], embedding: Embedding) -> pa.Table:
        """Representations of sequences, as `dplm2.representations.embedding.embed` gives them.

        Raises
        ------
        ConfigError
            If the network lacks a layer.
        DPLM2Error
            If a protein has no sequence, or does not fit into memory; the message names it.
        """
        layers = embedding.resolved(self.depth)
        vectors: list[Vectors] = [{} for _ in targets]
        for batch, found in split_on_out_of_memory(
            _batches(targets, embedding.token_budget),
            lambda batch: self._embed_batch([targets[index] for index in batch], embedding, layers),
            lambda index: targets[index].length,
            lambda index: targets[index].name,
            "protein",
        ):
            for index, own in zip(batch, found, strict=True):
                vectors[index] = own
        return table_of(targets, vectors, self.width, layers, ("sequence",), embedding.numbers)

    @torch.inference_mode()
    def _embed_batch(self, targets: Sequence[Target], embedding: Embedding, layers) -> list[Vectors]:
        texts = [target.sequence.replace(OPEN, self._tokenizer.mask_token) for target in targets]
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        inputs = inputs.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=embedding.bfloat16):
            output = self._model(**inputs, output_hidden_states=True)
        hidden = {layer: output.hidden_states[layer] for layer in layers}
        if self.depth in hidden:  # after the last normalisation
            hidden[self.depth] = output.last_hidden_state
        dtype = torch.float16 if embedding.numbers == "float16" else torch.float32
        known_BT = inputs["input_ids"] != self._tokenizer.mask_token_id
        return [
            {
                (layer, "sequence"): vector
                for layer, hidden_BTD in hidden.items()
                if (vector := _kept(hidden_BTD[row], known_BT[row], target.length, embedding, dtype)) is not None
            }
            for row, target in enumerate(targets)
        ]


def _kept(hidden_TD, known_T, length: int, embedding: Embedding, dtype: torch.dtype) -> np.ndarray | None:  # noqa: ANN001
    if embedding.pool == "first":
        return hidden_TD[0].to(dtype).cpu().numpy()
    residues_LD, known_L = hidden_TD[1 : length + 1].float(), known_T[1 : length + 1]
    if embedding.pool == "none":
        return residues_LD.to(dtype).cpu().numpy().reshape(-1)
    return residues_LD[known_L].mean(0).to(dtype).cpu().numpy() if known_L.any() else None


def _batches(targets: Sequence[Target], token_budget: int) -> Iterator[list[int]]:
    if without := [target.name for target in targets if target.sequence is None]:
        raise ConfigError(f"{without[0]}: has no sequence, which an encoder of sequences reads")
    return by_length([target.length + EDGES for target in targets], token_budget)
