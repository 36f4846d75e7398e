"""The reconstruction loss of the structure tokenizer (DPLM-2, appendix B.3).

With the schema's defaults the terms are those of the authors' code, but for two of its defects: amino acids of padding
and of missing residues are not learnt, and missing residues neither break bonds nor clash; and the confidence head is
trained.

Shapes: B batch, L residues, I and J the residues of a pair, A atoms, X space, K passes of the structure module.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dplm2.geometry.frames import frames_from_backbone, pseudo_beta
from dplm2.geometry.lddt import lddt_per_residue
from dplm2.settings.tokenizer import LossSettings
from dplm2.tokenizer.decoder import CONFIDENCE_BINS, DecoderOutput
from dplm2.tokenizer.violation import violations

GLYCINE, PROLINE, UNKNOWN = 7, 14, 20
AMINO_ACIDS = "ARNDCQEGHILKMFPSTWYVX"  # the order of AlphaFold and of the sequence head
FIRST_BOUNDARY, LAST_BOUNDARY = 2.3125, 21.6875  # angstrom, of the distogram's bins
FAPE_UNIT = 10.0  # angstrom that count as an error of 1
FAPE_EPSILON, EPSILON = 1e-4, 1e-6
FAR_OFF = 4.0  # error of a step of the first trace that a peptide taken for its other form does not exceed


@dataclass(frozen=True)
class Targets:
    """What a batch of chains should be decoded as.

    Attributes
    ----------
    rotations, origins
        True frames ``(B, L, 3, 3)``, ``(B, L, 3)`` angstrom.
    beta
        ``(B, L, 3)``: C-beta, of glycines C-alpha.
    residues
        ``(B, L)`` amino acid of each residue in the order ``AMINO_ACIDS``.
    observed
        ``(B, L)`` residues whose coordinates are known.
    placed
        ``(B, L)`` residues that the first trace leads through: these, and those of bridges over gaps.
    sequence_mask, violation_mask
        ``(B, L)`` residues whose amino acid is learnt, and whose bonds and clashes count.
    bonded
        ``(B, L)`` whether the next residue follows without a gap.
    lengths
        ``(B,)`` residues of each chain.
    """

    rotations: Tensor
    origins: Tensor
    beta: Tensor
    residues: Tensor
    observed: Tensor
    placed: Tensor
    sequence_mask: Tensor
    violation_mask: Tensor
    bonded: Tensor
    lengths: Tensor


def targets_of(
    coords_BLAX: Tensor,
    observed_BL: Tensor,
    mask_BL: Tensor,
    residues_BL: Tensor,
    bonded_BL: Tensor,
    placed_BL: Tensor | None = None,
) -> Targets:
    """Targets from backbones.

    Parameters
    ----------
    coords_BLAX
        N, CA, C (and more) in angstrom; anything where not observed.
    observed_BL, mask_BL
        Residues with coordinates, and residues at all (False at padding).
    residues_BL, bonded_BL
        Amino acids, and whether the next residue follows without a gap.
    placed_BL
        Residues with coordinates, those of bridges over gaps among them; None: the observed ones.
    """
    placed_BL = observed_BL if placed_BL is None else placed_BL
    coords_BLAX = torch.where(placed_BL[..., None, None], coords_BLAX, 0.0)
    rotations, origins = frames_from_backbone(coords_BLAX)
    is_glycine = (residues_BL == GLYCINE).unsqueeze(-1)
    beta = torch.where(is_glycine, origins, pseudo_beta(coords_BLAX))
    known = mask_BL & observed_BL & (residues_BL != UNKNOWN)
    lengths_B = mask_BL.sum(-1)
    return Targets(
        rotations, origins, beta, residues_BL, observed_BL, placed_BL, known, observed_BL, bonded_BL, lengths_B
    )


def reconstruction_loss(
    output: DecoderOutput, targets: Targets, settings: LossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and each term by itself (unweighted, for the log).

    The quantizer's loss is not among them; ``scale_of`` gives the factor that stands before both.
    """
    passes = output.passes
    errors = aligned_errors(passes.rotations, passes.origins, targets)
    terms = {
        "fape": fape(errors, targets, settings.fape_clamp, settings.unclamped_fraction),
        "sequence": sequence_cross_entropy(output.sequence_logits, targets.residues, targets.sequence_mask),
    }
    if settings.distogram > 0 and output.distogram_logits is not None:
        terms["distogram"] = distogram_cross_entropy(output.distogram_logits, targets.beta, targets.observed)
    if settings.violation > 0:
        broken = violations(
            output.positions,
            targets.violation_mask,
            targets.bonded,
            targets.residues == PROLINE,
            targets.residues == GLYCINE,
        )
        terms["violation"] = broken.total.mean()
    if settings.confidence > 0:
        terms["confidence"] = confidence_cross_entropy(output.confidence_logits, passes.origins[-1], targets)
    if settings.local_fape > 0:
        terms["local_fape"] = local_fape(errors, targets, settings.local_fape_window)
    if settings.distance > 0:
        terms["distance"] = distance_error(passes.origins, targets.origins, targets.observed)
    if settings.chain > 0 and passes.chain_turns is not None:
        terms["chain"] = chain_error(passes.chain_turns, passes.chain_shifts, targets, settings.chain_reach)
    if settings.chain_outliers > 0 and passes.chain_turns is not None:
        terms["chain_outliers"] = chain_outliers(passes.chain_turns, passes.chain_shifts, targets)
    total = sum(getattr(settings, name) * term for name, term in terms.items())
    return total, terms


def scale_of(lengths_B: Tensor, settings: LossSettings, crop: int | None) -> Tensor:
    """Square root of the mean length, at most of the crop; 1 if the settings switch it off."""
    if not settings.length_scaling:
        return torch.ones((), device=lengths_B.device)
    mean = lengths_B.float().mean()
    return (mean if crop is None else mean.clamp(max=crop)).sqrt()


def aligned_errors(rotations: Tensor, origins: Tensor, targets: Targets) -> Tensor:
    """Distance in angstrom between C-alpha j and where it should be, seen from frame i: ``(K, B, I, J)``."""

    def seen(rotation: Tensor, origin: Tensor) -> Tensor:
        inverse = rotation.transpose(-1, -2)
        centre = inverse @ origin.unsqueeze(-1)
        points = inverse.flatten(-3, -2) @ origin.transpose(-1, -2)
        return points.unflatten(-2, (-1, 3)) - centre

    difference = seen(rotations, origins) - seen(targets.rotations, targets.origins)
    return (difference.square().sum(-2) + FAPE_EPSILON).sqrt()


def fape(error: Tensor, targets: Targets, clamp: float, unclamped: float = 0.0) -> Tensor:
    """Frame-aligned point error of C-alpha in units of 10 angstrom, mean over passes and chains.

    Parameters
    ----------
    error
        ``aligned_errors``.
    targets
        Of which ``observed`` counts.
    clamp
        Angstrom above which an error does not grow.
    unclamped
        Share of the error that is not clamped (AlphaFold does not clamp a tenth of the chains; this is its
        expectation).
    """
    clamped = error.clamp(max=clamp)
    if unclamped > 0:
        clamped = (1 - unclamped) * clamped + unclamped * error
    known = targets.observed.to(error.dtype)
    count = known.sum(-1)
    per_frame = (clamped * known[:, None, :]).sum(-1) * known
    return (per_frame.sum(-1) / (count + FAPE_EPSILON) / (count + FAPE_EPSILON)).mean() / FAPE_UNIT


def local_fape(error: Tensor, targets: Targets, window: int) -> Tensor:
    """Unclamped frame-aligned point error of points up to ``window`` residues away, in units of 10 angstrom."""
    index = torch.arange(error.shape[-1], device=error.device)
    near = (index[:, None] - index[None, :]).abs() <= window
    counted = near & targets.observed[:, :, None] & targets.observed[:, None, :]
    return ((error * counted).sum((-2, -1)) / (counted.sum((-2, -1)) + EPSILON)).mean() / FAPE_UNIT


def chain_error(turns: Tensor, shifts: Tensor, targets: Targets, reach: int) -> Tensor:
    """Error of frames as seen from the frames 1, 2, 4, ... up to ``reach`` residues before them, all counting alike.

    The error of a frame is the length of the difference in turn (matrix entries) and shift (angstrom), per residue of
    the stride. What is small from one residue to the next but always in the same direction adds up along a chain;
    longer strides see that.

    Parameters
    ----------
    turns, shifts
        ``(B, L, 3, 3)`` and ``(B, L, 3)``, of the frame after each residue.
    targets
        True frames.
    reach
        Longest stride.
    """
    turns, shifts = turns[:, :-1], shifts[:, :-1]
    counted = _steps_counted(targets)
    stride, errors = 1, []
    while stride <= reach and counted.shape[1] > 0:
        error = (_squared_errors(turns, shifts, targets, stride) + FAPE_EPSILON).sqrt()
        errors.append((error * counted).sum() / counted.sum().clamp(min=1) / stride)
        # Two strides make one of twice the length; chains that are shorter than that drop out.
        first, second = turns[:, :-stride], turns[:, stride:]
        shifts = shifts[:, :-stride] + (first @ shifts[:, stride:].unsqueeze(-1)).squeeze(-1)
        turns = first @ second
        counted = counted[:, :-stride] & counted[:, stride:]
        stride *= 2
    return torch.stack(errors).mean() if errors else shifts.sum()


def chain_outliers(turns: Tensor, shifts: Tensor, targets: Targets) -> Tensor:
    """Squared error of single steps of the first trace, as in `chain_error`, growing linearly above ``FAR_OFF``.

    Three peptides in a thousand are cis; a step that takes one for trans turns the rest of the chain by 180
    degrees, and hardly counts in a mean of lengths.
    """
    counted = _steps_counted(targets)
    squares = _squared_errors(turns[:, :-1], shifts[:, :-1], targets, 1)
    lengths = (squares + FAPE_EPSILON).sqrt()
    bounded = torch.where(lengths < FAR_OFF, squares, FAR_OFF * (2 * lengths - FAR_OFF))
    return (bounded * counted).sum() / counted.sum().clamp(min=1)


def _steps_counted(targets: Targets) -> Tensor:
    return targets.placed[:, :-1] & targets.placed[:, 1:] & targets.bonded[:, :-1]


def _squared_errors(turns: Tensor, shifts: Tensor, targets: Targets, stride: int) -> Tensor:
    rotations, origins = targets.rotations, targets.origins
    inverse = rotations[:, :-stride].transpose(-1, -2)
    true_turns = inverse @ rotations[:, stride:]
    true_shifts = (inverse @ (origins[:, stride:] - origins[:, :-stride]).unsqueeze(-1)).squeeze(-1)
    return (turns - true_turns).square().sum((-2, -1)) + (shifts - true_shifts).square().sum(-1)


def distance_error(origins: Tensor, true_BLX: Tensor, observed_BL: Tensor) -> Tensor:
    """Mean relative error of C-alpha distances: a pull at any distance, blind to frames."""
    predicted = (origins.unsqueeze(-2) - origins.unsqueeze(-3)).square().sum(-1).add(EPSILON).sqrt()
    true = (true_BLX.unsqueeze(-2) - true_BLX.unsqueeze(-3)).square().sum(-1).sqrt()
    counted = (observed_BL[:, :, None] & observed_BL[:, None, :]).to(predicted.dtype)
    relative = (predicted - true).abs() / (true + FAPE_UNIT)
    return ((relative * counted).sum((-2, -1)) / (counted.sum((-2, -1)) + EPSILON)).mean()


def distogram_cross_entropy(logits_BIJN: Tensor, beta_BLX: Tensor, observed_BL: Tensor) -> Tensor:
    """Cross-entropy of the binned C-beta distances of all pairs of known residues, mean over chains."""
    bins = logits_BIJN.shape[-1]
    boundaries = torch.linspace(FIRST_BOUNDARY, LAST_BOUNDARY, bins - 1, device=logits_BIJN.device)
    squares_BIJ = (beta_BLX[:, :, None] - beta_BLX[:, None]).square().sum(-1)
    true_BIJ = torch.searchsorted(boundaries.square(), squares_BIJ)
    errors_BIJ = functional.cross_entropy(logits_BIJN.permute(0, 3, 1, 2), true_BIJ, reduction="none")
    counted_BIJ = (observed_BL[:, :, None] & observed_BL[:, None, :]).to(errors_BIJ.dtype)
    return ((errors_BIJ * counted_BIJ).sum((-2, -1)) / (counted_BIJ.sum((-2, -1)) + EPSILON)).mean()


def sequence_cross_entropy(logits_BLC: Tensor, residues_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Cross-entropy of the amino acids of the residues in the mask."""
    errors_BL = functional.cross_entropy(logits_BLC.transpose(1, 2), residues_BL, reduction="none")
    return (errors_BL * mask_BL).sum() / mask_BL.sum().clamp(min=1)


def confidence_cross_entropy(logits_BLC: Tensor, alpha_BLX: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy of the binned lDDT of C-alpha (Jumper et al. 2021, supplement 1.9.6), mean over chains.

    The authors' configuration has this term; their code leaves it out.
    """
    true_BL = lddt_per_residue(alpha_BLX.detach(), targets.origins, targets.observed)
    bins_BL = (true_BL * CONFIDENCE_BINS).long().clamp(max=CONFIDENCE_BINS - 1)
    errors_BL = functional.cross_entropy(logits_BLC.transpose(1, 2), bins_BL, reduction="none")
    known_BL = targets.observed.to(errors_BL.dtype)
    return ((errors_BL * known_BL).sum(-1) / (known_BL.sum(-1) + EPSILON)).mean()
