"""Synthetic backbones, and the sizes of a small tokenizer."""

import numpy as np

SMALL = {
    "encoder": {
        "width": 48,
        "layers": 2,
        "heads": 4,
        "feedforward_width": 96,
        "gvp_layers": 2,
        "node_scalars": 40,
        "node_vectors": 12,
        "edge_vectors": 2,
    },
    "decoder": {
        "sequence_dim": 32,
        "pair_dim": 16,
        "blocks": 1,
        "sequence_head_width": 16,
        "pairwise_head_width": 8,
        "structure_blocks": 2,
        "ipa_heads": 2,
        "post_quant_layers": 1,
        "post_quant_heads": 4,
        "confidence_hidden": 16,
    },
}


def chain(length: int, seed: int, missing: tuple[int, ...] = ()) -> np.ndarray:
    """A backbone with the local geometry of an irregular helix: (L, 4, 3) angstrom, NaN at missing residues."""
    random = np.random.default_rng(seed)
    step = np.arange(3 * length) / 3
    curve = np.stack([2.3 * np.cos(step * 1.75), 2.3 * np.sin(step * 1.75), 1.5 * step], -1)
    curve[:, :2] += np.cumsum(random.normal(size=(3 * length, 2)) * 0.4, 0)
    atoms = (curve + random.normal(size=curve.shape) * 0.15).reshape(length, 3, 3)
    backbone = np.concatenate([atoms, atoms[:, 2:] + [0.0, 0.6, 1.0]], 1).astype(np.float32)
    backbone[list(missing)] = np.nan
    return backbone + np.float32(20.0)


def rotation(seed: int) -> np.ndarray:
    """A random rotation matrix."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))
