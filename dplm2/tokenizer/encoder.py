"""The encoder: a GVP network followed by a transformer, the encoder of ESM-IF1 (Hsu et al. 2022).

Shapes: B batch, L residues, A atoms (N, CA, C), X coordinates, D width, N residues of the batch without padding.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dplm2.cpu.products import Linear
from dplm2.settings.tokenizer import EncoderSettings
from dplm2.tokenizer import features
from dplm2.tokenizer.gvp import GvpNetwork

DIHEDRAL_NORM_EPSILON = 1e-6
FIRST_POSITION = 2  # positions start after ESM-IF1's padding index, 1


class DihedralEmbedding(nn.Module):
    """Embedding of the six dihedral features, normalised by the unbiased deviation (Ingraham et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = Linear(6, width)
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, dihedrals_BLF: Tensor) -> Tensor:
        """(B, L, 6) to (B, L, D)."""
        values = self.linear(dihedrals_BLF)
        mean = values.mean(-1, keepdim=True)
        deviation = torch.sqrt(values.var(-1, keepdim=True) + DIHEDRAL_NORM_EPSILON)
        return self.gain * (values - mean) / (deviation + DIHEDRAL_NORM_EPSILON) + self.bias


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer: self-attention and a feed-forward part with ReLU."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.dropout = settings.heads, settings.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.output = Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.expand = Linear(width, settings.feedforward_width)
        self.contract = Linear(settings.feedforward_width, width)

    def forward(self, values_BLD: Tensor, bias_B11L: Tensor, precision: torch.dtype) -> Tensor:
        """Updated values; ``bias_B11L`` is minus infinity at padding and zero elsewhere."""
        normed = self.attention_norm(values_BLD).to(precision)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        bias = bias_B11L.to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        values = values_BLD + F.dropout(self.output(mixed.transpose(1, 2).flatten(-2)), dropout)
        expanded = F.relu_(self.expand(self.feedforward_norm(values).to(precision)))
        return values + F.dropout(self.contract(expanded), dropout)


def position_embedding(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal embedding (L, D) of positions in the chain: sines, then cosines."""
    half = width // 2
    frequency = torch.exp(
        torch.arange(half, dtype=torch.float32, device=device) * -(math.log(10000) / max(half - 1, 1))
    )
    angles = torch.arange(FIRST_POSITION, FIRST_POSITION + length, device=device)[:, None] * frequency
    return F.pad(torch.cat([torch.sin(angles), torch.cos(angles)], -1), (0, width % 2))


class Encoder(nn.Module):
    """Features of each residue from the backbone around it.

    They are invariant to rotations and translations of the input, since chains are centred and vectors expressed in
    each residue's own frame; padding and other chains of the batch do not affect them.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.mask_embedding = nn.Parameter(torch.empty(width).normal_(std=1 / width))
        self.dihedrals = DihedralEmbedding(width)
        self.gvp = GvpNetwork(settings)
        self.geometry = Linear(settings.node_scalars + 3 * settings.node_vectors, width)
        self.confidence = Linear(16, width)
        self.inputs = Linear(features.NODE_SCALARS - 1 + 3 * features.NODE_VECTORS, width)
        self.layers = nn.ModuleList([TransformerLayer(settings) for _ in range(settings.layers)])
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        coords_BLAX: Tensor,
        observed_BL: Tensor,
        residues_BL: Tensor,
        precision: torch.dtype = torch.float32,
    ) -> Tensor:
        """Encode a padded batch.

        Parameters
        ----------
        coords_BLAX
            N, CA, C in angstrom; arbitrary (also NaN) where not observed.
        observed_BL
            True for residues with all three atoms.
        residues_BL
            False at padding, which follows the residues of each chain.
        precision
            Precision of the products in the layers; residual streams are in float32.

        Returns
        -------
        Tensor
            (B, L, D); zero at padding.
        """
        values = sum(self.embed(coords_BLAX, observed_BL, residues_BL, precision).values())
        if self.settings.positions:
            values = values + position_embedding(values.shape[1], values.shape[2], values.device)
        dropout = self.settings.dropout if self.training else 0.0
        values = F.dropout(values, dropout) * residues_BL[..., None]
        bias_B11L = torch.zeros_like(residues_BL, dtype=values.dtype).masked_fill(~residues_BL, -math.inf)[
            :, None, None
        ]
        for layer in self.layers:
            values = layer(values, bias_B11L, precision)
        return self.norm(values) * residues_BL[..., None]

    def embed(
        self,
        coords_BLAX: Tensor,
        observed_BL: Tensor,
        residues_BL: Tensor,
        precision: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """The five terms (B, L, D) whose sum enters the transformer."""
        coords = features.centre(coords_BLAX[..., :3, :], observed_BL & residues_BL)
        observed = observed_BL & residues_BL
        confidence = observed.to(coords.dtype)
        frames = features.local_frames(coords)
        angles = features.dihedrals(coords, residues_BL)
        vectors_BLC3 = features.directions(coords, residues_BL)
        edges = features.edges_of(coords, observed, residues_BL, self.settings.neighbours)
        node_scalars = torch.cat([angles, confidence[..., None]], -1)
        scalars_NS, vectors_N3V = self.gvp(
            node_scalars[residues_BL], vectors_BLC3[residues_BL], confidence[residues_BL], edges, precision
        )
        in_frame_NV3 = torch.einsum("nxv,njx->nvj", vectors_N3V, frames[residues_BL])
        geometry_BLD = coords.new_zeros(*residues_BL.shape, self.settings.width)
        geometry_BLD[residues_BL] = self.geometry(torch.cat([scalars_NS, in_frame_NV3.flatten(-2)], -1))
        inputs = torch.cat([angles, torch.einsum("blcx,bljx->blcj", vectors_BLC3, frames).flatten(-2)], -1)
        return {
            "mask": (self.mask_embedding * math.sqrt(self.settings.width)).expand_as(geometry_BLD),
            "dihedrals": self.dihedrals(features.dihedrals(coords, residues_BL, exact_norm=True)),
            "geometry": geometry_BLD,
            "confidence": self.confidence(features.radial_basis(confidence, 1.0)),
            "inputs": self.inputs(inputs),
        }
