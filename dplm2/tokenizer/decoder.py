"""The decoder of the structure tokenizer: codes to backbone coordinates (DPLM-2, section 3.3 and appendix B.2).

Shapes: B batch, L residues, I and J the residues of a pair, D width per residue, P width per pair, Q bits, K passes of
the structure module, A atoms (N, CA, C, O, CB), X space.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dplm2.cpu.caching import cached_from_weights
from dplm2.settings.tokenizer import DecoderSettings, QuantizerSettings
from dplm2.tokenizer.post_quant import PostQuantization
from dplm2.tokenizer.structure_module import StructureModule, StructurePasses
from dplm2.tokenizer.transition import InputPerceptron, by_rows, rows_per_chunk
from dplm2.tokenizer.trunk import FoldingTrunk

AMINO_ACID_CLASSES = 23  # the authors' head: 20 amino acids, unknown, and two that never occur
CONFIDENCE_BINS = 50  # of lDDT between 0 and 1


@dataclass(frozen=True)
class DecoderOutput:
    """Output of the decoder for a batch of chains.

    Attributes
    ----------
    passes
        Frames, atoms and states of every pass of the structure module.
    sequence_state, pair_state
        ``(B, L, D)`` and ``(B, L, L, P)``: the trunk's last features.
    distogram_logits
        ``(B, L, L, bins)``, symmetric; None if not requested.
    sequence_logits
        ``(B, L, 23)``: amino acids in the order ARNDCQEGHILKMFPSTWYV, X and two unused.
    confidence_logits
        ``(B, L, 50)``: lDDT of C-alpha in 50 bins.
    """

    passes: StructurePasses
    sequence_state: Tensor
    pair_state: Tensor
    distogram_logits: Tensor | None
    sequence_logits: Tensor
    confidence_logits: Tensor

    @property
    def positions(self) -> Tensor:
        """``(B, L, 5, 3)`` angstrom of the last pass: N, CA, C, O, CB."""
        return self.passes.positions[-1]

    @property
    def plddt(self) -> Tensor:
        """``(B, L)``, 0 to 100: expected lDDT of C-alpha. Meaningless unless the confidence head was trained."""
        bins = self.confidence_logits.shape[-1]
        centres = (torch.arange(bins, device=self.confidence_logits.device) + 0.5) * (100 / bins)
        return self.confidence_logits.softmax(-1) @ centres.to(self.confidence_logits.dtype)


class Decoder(nn.Module):
    """Post-quantization transformer, folding trunk, structure module and heads.

    Parameters
    ----------
    settings
        Sizes of the decoder.
    quantizer
        Layout of a code's bits.
    """

    def __init__(self, settings: DecoderSettings, quantizer: QuantizerSettings) -> None:
        super().__init__()
        width = settings.sequence_dim
        self.post_quant = PostQuantization(
            quantizer, width, settings.post_quant_layers, settings.post_quant_heads, settings.post_quant_window
        )
        self.input = InputPerceptron(width, width)
        self.trunk = FoldingTrunk(settings)
        self.sequence_to_structure = nn.Linear(width, width)
        self.pair_to_structure = nn.Linear(settings.pair_dim, settings.pair_dim)
        self.structure_module = StructureModule(settings)
        self.distogram_head = nn.Linear(settings.pair_dim, settings.distogram_bins)
        self.sequence_head = nn.Linear(width, AMINO_ACID_CLASSES)
        self.confidence_head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, settings.confidence_hidden),
            nn.Linear(settings.confidence_hidden, settings.confidence_hidden),
            nn.Linear(settings.confidence_hidden, CONFIDENCE_BINS),
        )

    def forward(
        self,
        codes_BLQ: Tensor,
        mask_BL: Tensor | None = None,
        *,
        distogram: bool = True,
        precision: torch.dtype = torch.float32,
    ) -> DecoderOutput:
        """Decode a batch of codes.

        Parameters
        ----------
        codes_BLQ
            -1 and 1 (0 for masked residues).
        mask_BL
            True for residues to decode; None: all. Other residues do not affect these, and their output is meaningless.
            The authors mask missing residues in training and decode all residues.
        distogram
            Whether to compute the distance distribution, which is large and needed only for training.
        precision
            Precision of the folding trunk. The structure module is always in float32: bfloat16 would round coordinates
            to half an angstrom.
        """
        if mask_BL is not None:
            mask_BL = mask_BL.bool()
            if not torch.is_grad_enabled() and bool(mask_BL.all()):
                mask_BL = None
        trunk = self.trunk
        if precision != torch.float32:
            trunk = cached_from_weights(trunk, precision, lambda: copy.deepcopy(self.trunk).to(precision))
        first_BLD = self.input(self.post_quant(codes_BLQ, mask_BL)).to(precision)
        sequence_BLD, pairs_BIJP = trunk(first_BLD, mask_BL)
        sequence_BLD = sequence_BLD.float()
        rows = rows_per_chunk(pairs_BIJP)
        structure_BLD = self.sequence_to_structure(sequence_BLD)
        structure_BIJP = by_rows(lambda part: self.pair_to_structure(part.float()), rows, pairs_BIJP)
        with torch.autocast(codes_BLQ.device.type, enabled=False):
            passes = self.structure_module(structure_BLD.float(), structure_BIJP.float(), mask_BL)
        distogram_logits = None
        if distogram:
            logits = self.distogram_head(pairs_BIJP.float())
            distogram_logits = (logits + logits.transpose(1, 2)) / 2
        return DecoderOutput(
            passes=passes,
            sequence_state=sequence_BLD,
            pair_state=pairs_BIJP,
            distogram_logits=distogram_logits,
            sequence_logits=self.sequence_head(sequence_BLD),
            # Detached: the confidence loss must not affect the structure.
            confidence_logits=self.confidence_head(passes.states[-1].detach()),
        )
