"""Weights of the two tiny language models of the recordings, regenerated instead of stored.

The recording program drew all tensors from one normal generator, in the order of ``keys.json``. The weights drawn here
are bit for bit the recorded ones (checked by ``make.py`` before it writes anything), which saves 6.5 MB.
"""

import json
from pathlib import Path

import torch

SEEDS = {"lm_tiny": 7, "lm_bit_tiny": 124}
ZERO_ROWS = {
    "lm_tiny": ("word_embeddings.weight",),
    "lm_bit_tiny": ("word_embeddings.weight", "position_embeddings.weight"),
}
PADDING = 1
# Standard deviations by a part of the name; the first match applies.
DEVIATIONS = {
    "quant2emb": 0.2,
    ".bias": 0.1,
    "word_embeddings": 0.7,
    "position_embeddings": 0.02,
    "_emb": 0.7,
    "lm_head.decoder": 0.35,
    "lm_head_struct.decoder": 0.15,
    "LayerNorm": 0.2,
    "layer_norm": 0.2,
}
NORMALIZATIONS = ("LayerNorm.weight", "layer_norm.weight", "layer_norm_after.weight")


def drawn_weights(network: str, keys_file: Path) -> dict[str, torch.Tensor]:
    """The weights of ``lm_tiny`` or ``lm_bit_tiny`` under the authors' names."""
    generator = torch.Generator().manual_seed(SEEDS[network])
    weights = {}
    for name, (shape, _) in json.loads(keys_file.read_text()).items():
        if name.endswith("inv_freq"):
            width = 2 * shape[0]
            weights[name] = 1 / 10000 ** (torch.arange(0, width, 2).float() / width)
            continue
        values = torch.randn(shape, generator=generator) * deviation(name, shape)
        if name.endswith(NORMALIZATIONS):
            values = 1 + values
        if name.endswith(ZERO_ROWS[network]):
            values[PADDING] = 0
        weights[name] = values
    return weights


def deviation(name: str, shape: list[int]) -> float:
    """Standard deviation of a tensor: ``inputs ** -0.5`` for linear layers, a constant for all others."""
    of_inputs = shape[-1] ** -0.5
    return next((value for part, value in DEVIATIONS.items() if part in name), of_inputs)
