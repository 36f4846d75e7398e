"""From quantized codes to features per residue: a perceptron and a small transformer (DPLM-2, appendix B.2).

Shapes: B batch, L residues, D width, H heads, W width of a head, Q bits of a code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.settings.tokenizer import QuantizerSettings
from dplm2.tokenizer.quantizer import levels_of
from dplm2.tokenizer.transition import InputPerceptron

ROTARY_BASE = 10000.0
MASKED = -1e9  # logit of masked keys; finite, so that a completely masked row is not NaN


class PostQuantLayer(nn.Module):
    """Pre-norm transformer layer with rotary positions, as in ESM-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, values_BLD: Tensor, angles: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """One layer; ``angles`` are the rotary cosines and sines, ``bias`` is added to the attention logits."""
        query, key, value = self.query_key_value(self.attention_norm(values_BLD)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        query, key = rotate(query, *angles), rotate(key, *angles)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        values_BLD = values_BLD + self.attention_output(attended.transpose(1, 2).flatten(2))
        return values_BLD + self.contract(functional.gelu(self.expand(self.feedforward_norm(values_BLD))))


def rotary_angles(length: int, head_width: int, template: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``(length, head_width)`` of rotary positions (Su et al. 2021)."""
    halves = torch.arange(0, head_width, 2, device=template.device, dtype=torch.float32) / head_width
    angles = torch.outer(torch.arange(length, device=template.device, dtype=torch.float32), ROTARY_BASE**-halves)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(template.dtype), angles.sin().to(template.dtype)


def rotate(values_BHLW: Tensor, cosines_LW: Tensor, sines_LW: Tensor) -> Tensor:
    """Rotate each pair of channels (first half, second half) by its position's angle."""
    first, second = values_BHLW.chunk(2, -1)
    return values_BHLW * cosines_LW + torch.cat((-second, first), -1) * sines_LW


class PostQuantization(nn.Module):
    """Codes of -1 and 1 to features per residue.

    Parameters
    ----------
    quantizer
        Layout of a code's bits.
    width
        Width of the features.
    layers, heads
        Numbers of layers and heads of the transformer.
    window
        Maximum distance in residues over which a layer attends; None: unlimited.
    """

    def __init__(
        self, quantizer: QuantizerSettings, width: int, layers: int, heads: int, window: int | None = None
    ) -> None:
        super().__init__()
        self.head_width, self.window = width // heads, window
        self.quantizer = quantizer
        values = len(quantizer.layout)
        # A layer norm over a few levels would remove most of their information.
        self.perceptron = InputPerceptron(values, width, normalize=quantizer.bits_per_value is None)
        self.layers = nn.ModuleList(PostQuantLayer(width, heads) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)

    def forward(self, codes_BLQ: Tensor, mask_BL: Tensor | None) -> Tensor:
        """Features ``(B, L, D)``; residues outside ``mask_BL`` do not affect the others."""
        values_BLD = self.perceptron(levels_of(codes_BLQ, self.quantizer))
        bias = None
        if mask_BL is not None:
            values_BLD = values_BLD * mask_BL.unsqueeze(-1)
            bias = torch.zeros(mask_BL.shape, dtype=values_BLD.dtype, device=values_BLD.device)
            bias = bias.masked_fill(~mask_BL, MASKED)[:, None, None, :]
        length = values_BLD.shape[1]
        if self.window is not None and length > self.window + 1:
            index_L = torch.arange(length, device=values_BLD.device)
            far_LL = (index_L[:, None] - index_L).abs() > self.window
            window_bias = torch.zeros_like(far_LL, dtype=values_BLD.dtype).masked_fill(far_LL, MASKED)
            bias = window_bias if bias is None else bias + window_bias
        angles = rotary_angles(values_BLD.shape[1], self.head_width, values_BLD)
        for layer in self.layers:
            values_BLD = layer(values_BLD, angles, bias)
        return self.final_norm(values_BLD)
