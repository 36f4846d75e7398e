"""The reconstruction loss of the structure tokenizer (DPLM-2, appendix B.3).

With default settings the terms are those of the authors' code, except that padding and missing residues have no amino
acid loss, missing residues have no violations, and the confidence head is trained.

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
FIRST_BOUNDARY, LAST_BOUNDARY = 2.3125, 21.6875  # of the distogram's bins, in angstrom
FAPE_UNIT = 10.0  # angstrom per unit of the error
FAPE_EPSILON, EPSILON = 1e-4, 1e-6
OUTLIER_ERROR = 4.0  # not exceeded by a step of the first trace that confuses a cis with a trans peptide


@dataclass(frozen=True)
class Targets:
    """Reconstruction targets of a batch of chains.

    Attributes
    ----------
    rotations, origins
        True frames ``(B, L, 3, 3)``, ``(B, L, 3)`` angstrom.
    beta
        ``(B, L, 3)``: C-beta; C-alpha for glycine.
    residues
        ``(B, L)`` index of each residue's amino acid in ``AMINO_ACIDS``.
    observed
        ``(B, L)`` True for residues with known coordinates.
    placed
        ``(B, L)`` True for observed residues and those of bridges over gaps, the targets of the first trace.
    sequence_mask, violation_mask
        ``(B, L)`` True for residues with an amino acid loss, and with violations of bonds and clashes.
    bonded
        ``(B, L)`` whether the next residue follows without a gap.
    lengths
        ``(B,)`` number of residues of each chain.
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
        N, CA, C (and more) in angstrom; arbitrary where not observed.
    observed_BL, mask_BL
        True for residues with coordinates, and for all residues (False at padding).
    residues_BL, bonded_BL
        Amino acids, and whether the next residue follows without a gap.
    placed_BL
        True for residues with coordinates, including those of bridges over gaps; None: the observed ones.
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
    """The weighted sum of all terms, and the unweighted terms (for the log).

    The quantizer's loss is not included; ``scale_of`` returns the common factor of both.
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
    """Square root of the mean length, limited to that of the crop; 1 without ``length_scaling``."""
    if not settings.length_scaling:
        return torch.ones((), device=lengths_B.device)
    mean = lengths_B.float().mean()
    return (mean if crop is None else mean.clamp(max=crop)).sqrt()


def aligned_errors(rotations: Tensor, origins: Tensor, targets: Targets) -> Tensor:
    """Distance in angstrom between predicted and true C-alpha j in the coordinates of frame i: ``(K, B, I, J)``."""

    def local_points(rotation: Tensor, origin: Tensor) -> Tensor:
        inverse = rotation.transpose(-1, -2)
        centre = inverse @ origin.unsqueeze(-1)
        points = inverse.flatten(-3, -2) @ origin.transpose(-1, -2)
        return points.unflatten(-2, (-1, 3)) - centre

    difference = local_points(rotations, origins) - local_points(targets.rotations, targets.origins)
    return (difference.square().sum(-2) + FAPE_EPSILON).sqrt()


def fape(error: Tensor, targets: Targets, clamp: float, unclamped: float = 0.0) -> Tensor:
    """Frame-aligned point error of C-alpha in units of 10 angstrom, mean over passes and chains.

    Parameters
    ----------
    error
        From ``aligned_errors``.
    targets
        Targets, for ``observed``.
    clamp
        Maximum error in angstrom.
    unclamped
        Weight of the unclamped error (AlphaFold does not clamp a tenth of the chains; this is the expectation).
    """
    clamped = error.clamp(max=clamp)
    if unclamped > 0:
        clamped = (1 - unclamped) * clamped + unclamped * error
    known = targets.observed.to(error.dtype)
    count = known.sum(-1)
    per_frame = (clamped * known[:, None, :]).sum(-1) * known
    return (per_frame.sum(-1) / (count + FAPE_EPSILON) / (count + FAPE_EPSILON)).mean() / FAPE_UNIT


def local_fape(error: Tensor, targets: Targets, window: int) -> Tensor:
    """Unclamped frame-aligned point error between residues at most ``window`` apart, in units of 10 angstrom."""
    index = torch.arange(error.shape[-1], device=error.device)
    near = (index[:, None] - index[None, :]).abs() <= window
    counted = near & targets.observed[:, :, None] & targets.observed[:, None, :]
    return ((error * counted).sum((-2, -1)) / (counted.sum((-2, -1)) + EPSILON)).mean() / FAPE_UNIT


def chain_error(turns: Tensor, shifts: Tensor, targets: Targets, reach: int) -> Tensor:
    """Mean error of frames relative to the frames 1, 2, 4, ... up to ``reach`` residues before them.

    The error is the norm of the differences in rotation (matrix entries) and translation (angstrom), divided by the
    stride. Longer strides are sensitive to small systematic errors that add up along a chain.

    Parameters
    ----------
    turns, shifts
        Rotations ``(B, L, 3, 3)`` and translations ``(B, L, 3)`` from each residue to the next.
    targets
        Targets.
    reach
        Longest stride.
    """
    turns, shifts = turns[:, :-1], shifts[:, :-1]
    counted = _steps_counted(targets)
    stride, errors = 1, []
    while stride <= reach and counted.shape[1] > 0:
        error = (_squared_errors(turns, shifts, targets, stride) + FAPE_EPSILON).sqrt()
        errors.append((error * counted).sum() / counted.sum().clamp(min=1) / stride)
        # Two strides compose to one of twice the length; shorter chains no longer count.
        first, second = turns[:, :-stride], turns[:, stride:]
        shifts = shifts[:, :-stride] + (first @ shifts[:, stride:].unsqueeze(-1)).squeeze(-1)
        turns = first @ second
        counted = counted[:, :-stride] & counted[:, stride:]
        stride *= 2
    return torch.stack(errors).mean() if errors else shifts.sum()


def chain_outliers(turns: Tensor, shifts: Tensor, targets: Targets) -> Tensor:
    """Squared error of single steps of the first trace, as in `chain_error`, but linear above ``OUTLIER_ERROR``.

    Three peptides in a thousand are cis; a step that takes one for trans rotates the rest of the chain by 180 degrees,
    yet hardly affects the mean error.
    """
    counted = _steps_counted(targets)
    squares = _squared_errors(turns[:, :-1], shifts[:, :-1], targets, 1)
    lengths = (squares + FAPE_EPSILON).sqrt()
    bounded = torch.where(lengths < OUTLIER_ERROR, squares, OUTLIER_ERROR * (2 * lengths - OUTLIER_ERROR))
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
    """Mean relative error of C-alpha distances, independent of frames."""
    predicted = (origins.unsqueeze(-2) - origins.unsqueeze(-3)).square().sum(-1).add(EPSILON).sqrt()
    true = (true_BLX.unsqueeze(-2) - true_BLX.unsqueeze(-3)).square().sum(-1).sqrt()
    counted = (observed_BL[:, :, None] & observed_BL[:, None, :]).to(predicted.dtype)
    relative = (predicted - true).abs() / (true + FAPE_UNIT)
    return ((relative * counted).sum((-2, -1)) / (counted.sum((-2, -1)) + EPSILON)).mean()


def distogram_cross_entropy(logits_BIJN: Tensor, beta_BLX: Tensor, observed_BL: Tensor) -> Tensor:
    """Cross-entropy of the binned C-beta distances of all pairs of observed residues, mean over chains."""
    bins = logits_BIJN.shape[-1]
    boundaries = torch.linspace(FIRST_BOUNDARY, LAST_BOUNDARY, bins - 1, device=logits_BIJN.device)
    squares_BIJ = (beta_BLX[:, :, None] - beta_BLX[:, None]).square().sum(-1)
    true_BIJ = torch.searchsorted(boundaries.square(), squares_BIJ)
    errors_BIJ = functional.cross_entropy(logits_BIJN.permute(0, 3, 1, 2), true_BIJ, reduction="none")
    counted_BIJ = (observed_BL[:, :, None] & observed_BL[:, None, :]).to(errors_BIJ.dtype)
    return ((errors_BIJ * counted_BIJ).sum((-2, -1)) / (counted_BIJ.sum((-2, -1)) + EPSILON)).mean()


def sequence_cross_entropy(logits_BLC: Tensor, residues_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Cross-entropy of the amino acids of the residues in the mask, mean over residues."""
    errors_BL = functional.cross_entropy(logits_BLC.transpose(1, 2), residues_BL, reduction="none")
    return (errors_BL * mask_BL).sum() / mask_BL.sum().clamp(min=1)


def confidence_cross_entropy(logits_BLC: Tensor, alpha_BLX: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy of the binned lDDT of C-alpha (Jumper et al. 2021, supplement 1.9.6), mean over chains.

    The authors' configuration has this term, but their code does not compute it.
    """
    true_BL = lddt_per_residue(alpha_BLX.detach(), targets.origins, targets.observed)
    bins_BL = (true_BL * CONFIDENCE_BINS).long().clamp(max=CONFIDENCE_BINS - 1)
    errors_BL = functional.cross_entropy(logits_BLC.transpose(1, 2), bins_BL, reduction="none")
    known_BL = targets.observed.to(errors_BL.dtype)
    return ((errors_BL * known_BL).sum(-1) / (known_BL.sum(-1) + EPSILON)).mean()
