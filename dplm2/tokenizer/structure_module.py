"""The structure module: frames from residue features by invariant point attention.

Jumper et al. 2021, supplement, algorithms 20, 22 and 23, with the sizes of DPLM-2 (appendix B.2). All passes share one
block's weights. Internal lengths are in units of 10 angstrom.

Shapes: B batch, L residues, I and J the residues of a pair, D width per residue, P width per pair, H heads, W width of
a head, S points of a head, X space, K passes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.geometry import frames
from dplm2.settings.tokenizer import DecoderSettings
from dplm2.tokenizer.transition import by_rows, lecun_, rows_per_chunk, zero_

HEAD_WIDTH, QUERY_POINTS, VALUE_POINTS = 16, 4, 8
UNIT = 10.0  # angstrom per unit of length inside the module
MASKED_PAIR = -1e5
TINY_LENGTH = 1e-8
ANGLE_EPSILON = 1e-8
# Initial chain step: the next residue's frame relative to a residue's own, averaged over known chains.
MEAN_TURN, MEAN_SHIFT = (0.361, 0.737, -0.500, 0.276), (0.356, 0.009, 0.008)
SOFTPLUS_INVERSE_OF_ONE = math.log(math.e - 1)


@dataclass(frozen=True)
class StructurePasses:
    """Output of the passes of the structure module.

    Attributes
    ----------
    quaternions, rotations, origins
        Frames: ``(K, B, L, 4)``, ``(K, B, L, 3, 3)`` and ``(K, B, L, 3)`` angstrom.
    positions
        ``(K, B, L, 5, 3)`` angstrom: N, CA, C, O, CB.
    states
        ``(K, B, L, D)`` residue features.
    chain_turns, chain_shifts
        ``(B, L, 3, 3)`` and ``(B, L, 3)`` angstrom: with ``start: chain``, the first prediction of the next residue's
        frame relative to each residue's own; otherwise None.
    """

    quaternions: Tensor
    rotations: Tensor
    origins: Tensor
    positions: Tensor
    states: Tensor
    chain_turns: Tensor | None = None
    chain_shifts: Tensor | None = None


class StructureModule(nn.Module):
    """Frames from residue and pair features."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        width = settings.sequence_dim
        self.passes = settings.structure_blocks
        self.sequence_norm = nn.LayerNorm(width)
        self.pair_norm = nn.LayerNorm(settings.pair_dim)
        self.input = nn.Linear(width, width)
        self.attention = InvariantPointAttention(width, settings.pair_dim, settings.ipa_heads)
        self.attention_norm = nn.LayerNorm(width)
        self.transition = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.transition_norm = nn.LayerNorm(width)
        self.frame_update = nn.Linear(width, 6)
        self.torsion = TorsionHead(width)
        self.dropout = nn.Dropout(settings.dropout)
        self.start = ChainStart(width) if settings.start == "chain" else None
        lecun_(self.input.weight)
        for layer in self.transition[:2]:
            lecun_(layer.weight, gain=2.0)
        zero_(self.transition[2])
        zero_(self.frame_update)

    def forward(self, sequence_BLD: Tensor, pairs_BIJP: Tensor, mask_BL: Tensor | None) -> StructurePasses:
        """Run all passes, starting with identity frames, or with ``start: chain`` with the first trace.

        Without passes the first trace is the result.
        """
        first_BLD = self.sequence_norm(sequence_BLD)
        if self.passes:
            rows = rows_per_chunk(pairs_BIJP)
            pairs_BIJP = by_rows(self.pair_norm, rows, pairs_BIJP)
            bias_BHIJ = self.attention.pair_bias_of(pairs_BIJP, mask_BL, rows)
        state_BLD = self.input(first_BLD)
        steps, chain = [], (None, None)
        if self.start is None:
            quaternion = torch.zeros(*first_BLD.shape[:2], 4, dtype=first_BLD.dtype, device=first_BLD.device)
            quaternion[..., 0] = 1
            rotation, origin = frames.rotations_of(quaternion), torch.zeros_like(quaternion[..., 1:])
        else:
            turns, shifts = self.start(first_BLD)
            chain = frames.rotations_of(turns), UNIT * shifts
            quaternion, origin = trace(turns.detach(), shifts.detach(), mask_BL)
            rotation = frames.rotations_of(quaternion)
        for _ in range(self.passes):
            state_BLD = state_BLD + self.attention(state_BLD, pairs_BIJP, bias_BHIJ, rotation, origin)
            state_BLD = self._transit(self.attention_norm(self.dropout(state_BLD)))
            turn, shift = self.frame_update(state_BLD).split(3, -1)
            origin = origin + (rotation @ shift.unsqueeze(-1)).squeeze(-1)
            quaternion = frames.update_quaternions(quaternion, turn)
            rotation = frames.rotations_of(quaternion)
            steps.append((quaternion, rotation, UNIT * origin, state_BLD))
            # Detached: the gradient through many composed rotations would explode (algorithm 20, line 20).
            quaternion, rotation = quaternion.detach(), rotation.detach()
        if not steps:
            steps = [(quaternion, rotation, UNIT * origin, state_BLD)]
        quaternions, rotations, origins, states = (torch.stack(part) for part in zip(*steps, strict=True))
        positions = frames.ideal_atoms(rotations, origins, self.torsion(states, first_BLD))
        return StructurePasses(quaternions, rotations, origins, positions, states, *chain)

    def _transit(self, state_BLD: Tensor) -> Tensor:
        first, second, third = self.transition
        update = third(functional.relu(second(functional.relu(first(state_BLD)))))
        return self.transition_norm(self.dropout(state_BLD + update))


class ChainStart(nn.Module):
    """A first trace of the chain: each frame is predicted relative to the previous one, and all are composed.

    Frames that start at a single point need the paper's training length to be separated by their interactions. Here the
    features of two consecutive residues predict the step between them (3.8 angstrom and a rotation, which depends on
    the torsions of both); the passes of the structure module then correct the accumulated errors. The loss is on single
    steps: a gradient through the composed chain would be dominated by its lever arms. This is an addition to the
    paper's decoder.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, 2 * width)
        self.step = nn.Linear(2 * width, 7)
        lecun_(self.hidden.weight, gain=2.0)
        zero_(self.step)

    def forward(self, first_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Step to the next frame: unit quaternions ``(B, L, 4)``, shifts ``(B, L, 3)`` in units of 10 angstrom."""
        both_BLE = torch.cat((first_BLD, functional.pad(first_BLD[:, 1:], (0, 0, 0, 1))), -1)
        step = self.step(functional.relu(self.hidden(both_BLE)))
        turns = functional.normalize(step[..., :4] + step.new_tensor(MEAN_TURN), dim=-1)
        return turns, step[..., 4:] + step.new_tensor(MEAN_SHIFT)


def trace(turns: Tensor, shifts: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
    """Quaternions and origins of a chain's frames from its steps, with the chain centred at 0."""
    no_turn = turns.new_tensor([1.0, 0.0, 0.0, 0.0]).expand_as(turns[:, :1])
    turns = torch.cat((no_turn, turns[:, :-1]), 1)
    shifts = torch.cat((torch.zeros_like(shifts[:, :1]), shifts[:, :-1]), 1)
    quaternion, origin = compose_along(turns, shifts)
    if mask_BL is None:
        return quaternion, origin - origin.mean(1, keepdim=True)
    weight_BL1 = mask_BL.unsqueeze(-1).to(origin.dtype)
    centre = (origin * weight_BL1).sum(1, keepdim=True) / weight_BL1.sum(1, keepdim=True).clamp(min=1)
    return quaternion, origin - centre


def compose_along(turns: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Products of all steps up to each residue, in log2(L) rounds (Hillis and Steele 1986).

    Parameters
    ----------
    turns, shifts
        Unit quaternions ``(B, L, 4)`` and translations ``(B, L, 3)`` of the steps.
    """
    reach = 1
    while reach < turns.shape[1]:
        before_turns, before_shifts = turns[:, :-reach], shifts[:, :-reach]
        moved = before_shifts + frames.turned(before_turns, shifts[:, reach:])
        product = functional.normalize(frames.quaternion_product(before_turns, turns[:, reach:]), dim=-1)
        turns = torch.cat((turns[:, :reach], product), 1)
        shifts = torch.cat((shifts[:, :reach], moved), 1)
        reach *= 2
    return turns, shifts


def projection_sizes(heads: int) -> tuple[int, int, int, int]:
    """Channels of the projections: queries; keys and values; query points; key and value points.

    Keys and values alternate by head; the order of points is coordinate, head, point.
    """
    points = QUERY_POINTS + VALUE_POINTS
    return heads * HEAD_WIDTH, 2 * heads * HEAD_WIDTH, 3 * heads * QUERY_POINTS, 3 * heads * points


class InvariantPointAttention(nn.Module):
    """Attention whose logits decrease with the distances of points fixed in the frames (algorithm 22).

    The squared distance of two points is ``|q|^2 + |k|^2 - 2 q.k``. The first term is the same for all keys, so that
    the softmax cancels it; the others are a dot product of extended queries ``[q, points, 1]`` and keys
    ``[k, points, -|points|^2 / 2]``, without a tensor of point differences. The bias from pairs is the same in every
    pass of the structure module and is computed once.
    """

    def __init__(self, width: int, pair_width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.pair_width = heads, pair_width
        self.sizes = projection_sizes(heads)
        self.project = nn.Linear(width, sum(self.sizes))
        self.pair_bias = nn.Linear(pair_width, heads)
        self.point_weights = nn.Parameter(torch.full((heads,), SOFTPLUS_INVERSE_OF_ONE))
        self.output = nn.Linear(heads * (HEAD_WIDTH + 4 * VALUE_POINTS + pair_width), width)
        lecun_(self.project.weight)
        lecun_(self.pair_bias.weight)
        zero_(self.output)

    def pair_bias_of(self, pairs_BIJP: Tensor, mask_BL: Tensor | None, rows: int) -> Tensor:
        """Bias ``(B, H, I, J)`` of the logits from normalized pair features, including the mask."""
        scaled = by_rows(lambda part: self.pair_bias(part) * math.sqrt(1 / 3), rows, pairs_BIJP)
        bias_BHIJ = scaled.permute(0, 3, 1, 2).contiguous()
        if mask_BL is not None:
            bias_BHIJ = bias_BHIJ + MASKED_PAIR * ~(mask_BL[:, None, :, None] & mask_BL[:, None, None, :])
        return bias_BHIJ

    def forward(
        self, state_BLD: Tensor, pairs_BIJP: Tensor, bias_BHIJ: Tensor, rotation_BLXX: Tensor, origin_BLX: Tensor
    ) -> Tensor:
        """Update of ``state_BLD``."""
        query, key_value, query_points, key_value_points = self.project(state_BLD).split(self.sizes, -1)
        query = query.unflatten(-1, (self.heads, -1))
        key, value = key_value.unflatten(-1, (self.heads, -1)).chunk(2, -1)
        query_points = self._global(query_points, rotation_BLXX, origin_BLX)
        key_points, value_points = self._global(key_value_points, rotation_BLXX, origin_BLX).split(
            (QUERY_POINTS, VALUE_POINTS), -2
        )
        point_weight_H1 = functional.softplus(self.point_weights)[:, None] * math.sqrt(2 / (27 * QUERY_POINTS))
        scale = math.sqrt(1 / (3 * HEAD_WIDTH))
        penalty = -0.5 * point_weight_H1 * key_points.flatten(-2).square().sum(-1, keepdim=True)
        queries = torch.cat(
            (query * scale, query_points.flatten(-2) * point_weight_H1, torch.ones_like(penalty)), -1
        ).transpose(1, 2)
        keys = torch.cat((key, key_points.flatten(-2), penalty), -1).transpose(1, 2)
        weights_BHIJ = torch.softmax(queries @ keys.transpose(-1, -2) + bias_BHIJ, -1)
        values = torch.cat((value, value_points.flatten(-2)), -1).transpose(1, 2)
        attended, points = (weights_BHIJ @ values).transpose(1, 2).split((HEAD_WIDTH, 3 * VALUE_POINTS), -1)
        attended_pairs_BIHP = weights_BHIJ.transpose(1, 2) @ pairs_BIJP
        points = self._local(points, rotation_BLXX, origin_BLX)
        lengths = (points.square().sum(-1) + TINY_LENGTH).sqrt()
        parts = (attended, *points.unbind(-1), lengths, attended_pairs_BIHP)
        return self.output(torch.cat([part.flatten(2) for part in parts], -1))

    def _global(self, flat: Tensor, rotation_BLXX: Tensor, origin_BLX: Tensor) -> Tensor:
        """Points ``(B, L, H, S, X)`` in space from their coordinates in the frames."""
        points_BLXS = rotation_BLXX @ flat.unflatten(-1, (3, -1)) + origin_BLX.unsqueeze(-1)
        return points_BLXS.transpose(-1, -2).unflatten(-2, (self.heads, -1))

    def _local(self, flat_BLHS: Tensor, rotation_BLXX: Tensor, origin_BLX: Tensor) -> Tensor:
        """Points ``(B, L, H, S, X)`` in the frames from points in space."""
        points = flat_BLHS.unflatten(-1, (VALUE_POINTS, 3)) - origin_BLX[:, :, None, None, :]
        return (points.flatten(2, 3) @ rotation_BLXX).unflatten(2, (self.heads, VALUE_POINTS))


class TorsionHead(nn.Module):
    """Sine and cosine of psi, which determines the position of O (algorithm 20, lines 11 to 14)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(width, width)
        self.first = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(2)) for _ in range(2))
        self.output = nn.Linear(width, 2)
        for layer in (self.state, self.first, self.output):
            lecun_(layer.weight)
        for expand, contract in self.blocks:
            lecun_(expand.weight, gain=2.0)
            zero_(contract)

    def forward(self, state_BLD: Tensor, first_BLD: Tensor) -> Tensor:
        """Unit vectors ``(..., B, L, 2)``."""
        relu = functional.relu
        values = self.state(relu(state_BLD)) + self.first(relu(first_BLD))
        for expand, contract in self.blocks:
            values = values + contract(relu(expand(relu(values))))
        angle = self.output(relu(values))
        return angle / angle.square().sum(-1, keepdim=True).clamp(min=ANGLE_EPSILON).sqrt()
