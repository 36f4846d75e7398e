"""The folding trunk of residue and pair features (ESMFold, Lin et al. 2023; DPLM-2, appendix B.2).

The plain form is transformers' ``EsmFoldingTrunk``. Here no tensor is larger than the pair features times a small
constant, projections of one input are one product, and attention uses fused kernels where available.

Shapes: B batch, L residues, I and J the residues of a pair, D width per residue, P width per pair, H heads, W width of
a head, N pairs of all residues.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu import torch_private
from dplm2.cpu.caching import cached_from_weights
from dplm2.cpu.products import Linear, batched
from dplm2.settings.tokenizer import DecoderSettings
from dplm2.tokenizer.post_quant import MASKED
from dplm2.tokenizer.transition import Transition, add_by_rows, by_rows, lecun_, rows_per_chunk, zero_

# Rows per product of edges: enough for full speed, few enough for memory to be reused.
TRIANGLE_ROWS = {"cpu": 192, "cuda": 1024}
TRIANGLE_ROWS_ELSEWHERE = 192
POSITION_BINS = 32  # maximum difference of residue indices; larger ones are clipped


class FoldingTrunk(nn.Module):
    """Relative positions and a stack of blocks over residue and pair features, in one pass."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        self.sequence_start = nn.Parameter(torch.zeros(settings.sequence_dim))
        self.pair_start = nn.Parameter(torch.zeros(settings.pair_dim))
        self.relative_position = nn.Embedding(2 * POSITION_BINS + 2, settings.pair_dim)
        self.blocks = nn.ModuleList(TrunkBlock(settings) for _ in range(settings.blocks))

    def forward(self, sequence_BLD: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """Residue features and pair features of the last block.

        Parameters
        ----------
        sequence_BLD
            Features per residue.
        mask_BL
            True for residues to decode; None: all.
        """
        sequence_BLD = sequence_BLD + self.sequence_start
        pairs_BIJP = self.first_pairs(sequence_BLD.shape[:2], mask_BL)
        edges_BPIJ = None
        if not torch.is_grad_enabled():
            # Reused: allocating it in every triangle update would cost a fifth of their time.
            batch, length, _, width = pairs_BIJP.shape
            edges_BPIJ = pairs_BIJP.new_empty(batch, 2 * width, length, length)
        for block in self.blocks:
            sequence_BLD, pairs_BIJP = block(sequence_BLD, pairs_BIJP, mask_BL, edges_BPIJ)
        return sequence_BLD, pairs_BIJP

    def first_pairs(self, shape: tuple[int, int], mask_BL: Tensor | None) -> Tensor:
        """Embedded difference of residue indices; index 0 of the embedding is for pairs with a masked residue."""
        index_L = torch.arange(shape[1], device=self.pair_start.device)
        difference_IJ = (index_L[None, :] - index_L[:, None]).clamp(-POSITION_BINS, POSITION_BINS) + POSITION_BINS + 1
        difference_BIJ = difference_IJ.expand(shape[0], -1, -1)
        if mask_BL is not None:
            difference_BIJ = difference_BIJ * (mask_BL[:, :, None] & mask_BL[:, None, :])
        return functional.embedding(difference_BIJ, self.relative_position.weight + self.pair_start)


class TrunkBlock(nn.Module):
    """Attention over residues biased by pairs, then triangle updates of the pairs."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        width, pair_width = settings.sequence_dim, settings.pair_dim
        self.residue_attention = ResidueAttention(width, pair_width, settings.sequence_head_width)
        self.residue_transition = Transition(width, 4 * width)
        self.residues_to_pairs = ResiduesToPairs(width, pair_width)
        self.multiply_outgoing = TriangleMultiplication(pair_width, outgoing=True)
        self.multiply_incoming = TriangleMultiplication(pair_width, outgoing=False)
        self.triangle_attention = settings.triangle_attention
        if settings.triangle_attention:
            self.attend_starting = TriangleAttention(pair_width, settings.pairwise_head_width, starting=True)
            self.attend_ending = TriangleAttention(pair_width, settings.pairwise_head_width, starting=False)
        self.pair_transition = Transition(pair_width, 4 * pair_width)

    def forward(
        self, sequence_BLD: Tensor, pairs_BIJP: Tensor, mask_BL: Tensor | None, edges_BPIJ: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Updated residue and pair features. Without gradients ``pairs_BIJP`` and ``edges_BPIJ`` are overwritten."""
        sequence_BLD = sequence_BLD + self.residue_attention(sequence_BLD, pairs_BIJP, mask_BL)
        sequence_BLD = sequence_BLD + self.residue_transition(sequence_BLD)
        pairs_BIJP = self.residues_to_pairs(sequence_BLD, pairs_BIJP)
        pairs_BIJP = self.multiply_outgoing(pairs_BIJP, mask_BL, edges_BPIJ)
        pairs_BIJP = self.multiply_incoming(pairs_BIJP, mask_BL, edges_BPIJ)
        if self.triangle_attention:
            pairs_BIJP = self.attend_starting(pairs_BIJP, mask_BL)
            pairs_BIJP = self.attend_ending(pairs_BIJP, mask_BL)
        rows = rows_per_chunk(pairs_BIJP, 4)
        return sequence_BLD, add_by_rows(self.pair_transition, rows, pairs_BIJP)


class ResidueAttention(nn.Module):
    """Gated self-attention over residues, with logits biased by the pair features."""

    def __init__(self, width: int, pair_width: int, head_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.gate = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.pair_norm = nn.LayerNorm(pair_width)
        self.pair_bias = nn.Linear(pair_width, self.heads, bias=False)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        zero_(self.output)
        zero_(self.pair_bias)

    def forward(self, sequence_BLD: Tensor, pairs_BIJP: Tensor, mask_BL: Tensor | None) -> Tensor:
        """Update of ``sequence_BLD``."""
        rows = rows_per_chunk(pairs_BIJP)
        biases_BIJH = by_rows(lambda part_BIJP: self.pair_bias(self.pair_norm(part_BIJP)), rows, pairs_BIJP)
        bias_BHIJ = biases_BIJH.permute(0, 3, 1, 2)
        if mask_BL is not None:
            bias_BHIJ = bias_BHIJ.masked_fill(~mask_BL[:, None, None, :], MASKED)
        values_BLD = self.norm(sequence_BLD)
        query, key, value = (
            self.query_key_value(values_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, -1)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias_BHIJ)
        return self.output(attended.transpose(1, 2).flatten(2) * self.gate(values_BLD).sigmoid())


class ResiduesToPairs(nn.Module):
    """Update of the pair features by products and differences of residue features.

    The differences are linear and therefore projected per residue; the products ``q_j * k_i`` are projected row by row
    with ``k_i`` folded into the weights, so that no tensor of all products is needed.
    """

    def __init__(self, width: int, pair_width: int) -> None:
        super().__init__()
        self.inner = pair_width // 2
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 2 * self.inner)
        self.output = nn.Linear(2 * self.inner, pair_width)
        nn.init.zeros_(self.project.bias)
        zero_(self.output)

    def forward(self, sequence_BLD: Tensor, pairs_BIJP: Tensor) -> Tensor:
        """The updated pair features."""
        query_BLC, key_BLC = self.project(self.norm(sequence_BLD)).chunk(2, -1)
        product_weight_PC, difference_weight_PC = self.output.weight.split(self.inner, 1)
        column_BLP = functional.linear(query_BLC, difference_weight_PC, self.output.bias)
        row_BLP = functional.linear(key_BLC, difference_weight_PC)

        def update(_: Tensor, key_BIC: Tensor, row_BIP: Tensor) -> Tensor:
            weights_BIPC = key_BIC[:, :, None, :] * product_weight_PC
            return query_BLC[:, None] @ weights_BIPC.transpose(-1, -2) + (column_BLP[:, None] - row_BIP[:, :, None])

        rows = rows_per_chunk(pairs_BIJP, 2)
        return add_by_rows(update, rows, pairs_BIJP, key_BLC, row_BLP)


class TriangleMultiplication(nn.Module):
    """Triangle update by products of edges (Jumper et al. 2021, supplement, algorithms 11 and 12)."""

    def __init__(self, width: int, outgoing: bool) -> None:
        super().__init__()
        self.width, self.outgoing = width, outgoing
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * width)  # a, gate of a, b, gate of b
        self.gate = Linear(width, width)
        self.product_norm = nn.LayerNorm(width)
        self.output = Linear(width, width)
        lecun_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        for gates in (slice(width, 2 * width), slice(3 * width, 4 * width)):
            nn.init.zeros_(self.project.weight[gates])
            nn.init.ones_(self.project.bias[gates])
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        zero_(self.output)

    def forward(self, pairs_BIJP: Tensor, mask_BL: Tensor | None, edges_BPIJ: Tensor | None = None) -> Tensor:
        """The updated pair features; ``edges_BPIJ`` (B, 2 P, I, J) is a buffer to overwrite."""
        length = pairs_BIJP.shape[1]
        rows = rows_per_chunk(pairs_BIJP, 4)
        edges_BPIJ = self._edges(pairs_BIJP, mask_BL, rows, edges_BPIJ)
        a_BPIJ, b_BPIJ = edges_BPIJ.split(self.width, 1)

        def finish(part_BIJP: Tensor, product_BIJP: Tensor) -> Tensor:
            gate_BIJP = self.gate(self.norm(part_BIJP)).sigmoid_()
            return self.output(self.product_norm(product_BIJP)) * gate_BIJP

        blocks = []
        step = TRIANGLE_ROWS.get(pairs_BIJP.device.type, TRIANGLE_ROWS_ELSEWHERE)
        if torch.is_grad_enabled():
            step = length
        for start in range(0, length, step):
            block = slice(start, start + step)
            operands = (a_BPIJ[:, :, block], b_BPIJ) if self.outgoing else (a_BPIJ[..., block].mT, b_BPIJ.mT)
            product_BPIJ = batched(*operands)
            blocks.append(add_by_rows(finish, rows, pairs_BIJP[:, block], product_BPIJ.permute(0, 2, 3, 1)))
        return blocks[0] if torch.is_grad_enabled() else pairs_BIJP

    def _values_then_gates(self) -> tuple[Tensor, Tensor]:
        """Weight (4 P, P) and bias (4 P, 1) of ``project`` in the order a, b, gate of a, gate of b."""
        order = [0, 2, 1, 3]
        weight, bias = (
            part.unflatten(0, (4, -1))[order].flatten(0, 1) for part in (self.project.weight, self.project.bias)
        )
        return weight, bias[:, None]

    def _edges(self, pairs_BIJP: Tensor, mask_BL: Tensor | None, rows: int, edges_BPIJ: Tensor | None) -> Tensor:
        """Gated a and b, joined, with channels first: ``(B, 2 P, I, J)``."""
        batch, length, _, width = pairs_BIJP.shape
        weight, bias = cached_from_weights(self.project, pairs_BIJP.dtype, self._values_then_gates)

        def project(part_BIJP: Tensor) -> Tensor:
            flat_BPN = self.norm(part_BIJP).flatten(1, 2).transpose(1, 2)
            return torch.baddbmm(bias, weight.expand(batch, -1, -1), flat_BPN)

        if torch.is_grad_enabled():
            edges_BPIJ = functional.glu(project(pairs_BIJP), 1).unflatten(2, (length, length))
        else:
            if edges_BPIJ is None:
                edges_BPIJ = pairs_BIJP.new_empty(batch, 2 * width, length, length)
            edges_BPN = edges_BPIJ.flatten(2)
            for start in range(0, length, rows):
                part = edges_BPN[:, :, start * length : (start + rows) * length]
                torch_private.glu_into(part, project(pairs_BIJP[:, start : start + rows]))
        if mask_BL is None:
            return edges_BPIJ
        mask_B1IJ = mask_BL[:, None, :, None] & mask_BL[:, None, None, :]
        return edges_BPIJ * mask_B1IJ if torch.is_grad_enabled() else edges_BPIJ.mul_(mask_B1IJ)


class TriangleAttention(nn.Module):
    """Attention along the rows (starting node) or columns of the pairs (Jumper et al. 2021, algorithms 13 and 14)."""

    def __init__(self, width: int, head_width: int, starting: bool) -> None:
        super().__init__()
        self.width, self.heads, self.starting = width, width // head_width, starting
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Linear(width, self.heads, bias=False)
        self.query_key_value = Linear(width, 3 * width, bias=False)
        self.gate = Linear(width, width)
        self.output = nn.Linear(width, width)
        lecun_(self.bias.weight)
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        zero_(self.output)

    def forward(self, pairs_BIJP: Tensor, mask_BL: Tensor | None) -> Tensor:
        """The updated pair features."""
        if not self.starting:
            pairs_BIJP = pairs_BIJP.transpose(1, 2)
        batch, length = pairs_BIJP.shape[:2]
        rows = rows_per_chunk(pairs_BIJP, 4)
        bias_BIJH = by_rows(lambda part_BIJP: self.bias(self.norm(part_BIJP)), rows, pairs_BIJP)
        bias_BHIJ = bias_BIJH.permute(0, 3, 1, 2).contiguous()
        row_mask_BL = torch.ones(batch, length, dtype=torch.bool, device=pairs_BIJP.device)
        masked_bias_BHIJ = bias_BHIJ
        if mask_BL is not None:
            masked_bias_BHIJ = bias_BHIJ.masked_fill(~mask_BL[:, None, None, :], MASKED)
            row_mask_BL = mask_BL
        masked = mask_BL is not None

        def attend(part_BIJP: Tensor, row_mask_BI: Tensor) -> Tensor:
            return self._attend(part_BIJP, masked_bias_BHIJ, bias_BHIJ, row_mask_BI if masked else None)

        pairs_BIJP = add_by_rows(attend, rows, pairs_BIJP, row_mask_BL)
        return pairs_BIJP if self.starting else pairs_BIJP.transpose(1, 2)

    def _attend(
        self, rows_BIJP: Tensor, masked_bias_BHJK: Tensor, bias_BHJK: Tensor, row_mask_BI: Tensor | None
    ) -> Tensor:
        normalized_BIJP = self.norm(rows_BIJP)
        query, key, value = self.query_key_value(normalized_BIJP).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        gate_BIJP = self.gate(normalized_BIJP).sigmoid_()
        heads = []
        # One head at a time: rows take the place of heads in the kernel, so that all of them share one bias.
        for head in range(self.heads):
            query_BIJW, key_BIJW, value_BIJW = query[..., head, :], key[..., head, :], value[..., head, :]
            attended_BIJW = functional.scaled_dot_product_attention(
                query_BIJW, key_BIJW, value_BIJW, attn_mask=masked_bias_BHJK[:, head : head + 1]
            )
            if row_mask_BI is not None and torch.is_grad_enabled():
                parts = query_BIJW, key_BIJW, value_BIJW
                attended_BIJW = _with_masked_rows(attended_BIJW, *parts, bias_BHJK[:, head], row_mask_BI)
            elif row_mask_BI is not None:
                mean_BI1W = value_BIJW.mean(2, keepdim=True)
                attended_BIJW = torch.where(row_mask_BI[:, :, None, None], attended_BIJW, mean_BI1W)
            heads.append(attended_BIJW)
        attended_BIJP = heads[0] if self.heads == 1 else torch.cat(heads, -1)
        return self.output(attended_BIJP * gate_BIJP)


def _with_masked_rows(
    attended_BIJW: Tensor,
    query_BIJW: Tensor,
    key_BIJW: Tensor,
    value_BIJW: Tensor,
    bias_BJK: Tensor,
    row_mask_BI: Tensor,
) -> Tensor:
    """``attended`` with values and gradients of masked rows as with the authors' mask.

    Their mask adds -1e9 to every logit of a masked row. The logits are then lost to rounding, so that all keys have
    equal weights and the result is the mean of the values; yet the gradient reaches the logits, as that of a softmax
    with equal weights. Here a term of value zero with this gradient is added to the mean.
    """
    keys = value_BIJW.shape[2]
    scale = query_BIJW.shape[-1] ** -0.5
    rows = []
    for sample, masked_I in enumerate(~row_mask_BI):
        query_NJW, key_NKW, value_NKW = (part[sample, masked_I] for part in (query_BIJW, key_BIJW, value_BIJW))
        mean_N1W = value_NKW.mean(1, keepdim=True)
        centred_NKW = (value_NKW - mean_N1W).detach() / keys
        linear_NJW = scale * query_NJW @ (key_NKW.transpose(1, 2) @ centred_NKW)
        linear_NJW = linear_NJW + torch.einsum("jk,nkw->njw", bias_BJK[sample], centred_NKW)
        rows.append(mean_N1W + (linear_NJW - linear_NJW.detach()))
    return attended_BIJW.index_put(torch.nonzero(~row_mask_BI, as_tuple=True), torch.cat(rows).to(attended_BIJW.dtype))
