"""``bits``: a structure token as its bits, each with its own two-way softmax (DPLM-2 Bit, Wang et al. 2025).

Bit j of Q is ``(code >> (Q - 1 - j)) & 1``, which is also the sign of the tokenizer's value j. The bits are independent
given the network's output, so the probability of a code is a product and its loss a sum over bits.

Shapes: B batch, T tokens (both tracks), N selected positions, D model width, Q bits, C codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.language.esm import Esm2, OutputLayer
from dplm2.language.heads.interface import Official, Sampling
from dplm2.language.heads.rows import NEW_ROW_SPREAD
from dplm2.language.vocabulary import SEQUENCE_IDS, Vocabulary
from dplm2.settings.model import DiffusionSettings
from dplm2.tokenizer.quantizer import indices_to_codes


def _codes_of(weights: Mapping[str, Tensor]) -> int:
    return 2 ** weights["enter.weight"].shape[1] if "enter.weight" in weights else 2


class Bits(nn.Module):
    """See `dplm2.language.heads.interface.StructureHead`.

    Raises
    ------
    DPLM2Error
        If the number of codes is not a power of two.
    """

    name = "bits"
    table_rows = SEQUENCE_IDS
    one_softmax = False
    sampling = Sampling("annealing@1.1:0.1", {"structure": 1.0, "sequence": 0.95})
    official = Official(
        "dplm2_bit_esm",
        "EsmForDPLM2Bit",
        "released_bit",
        {
            "enter.": "quant2emb.",
            "leave.": "lm_head_struct.",
            "begin": "struct_bos_emb",
            "end": "struct_eos_emb",
            "masked": "struct_mask_emb",
        },
        _codes_of,
    )

    def __init__(self, vocabulary: Vocabulary, width: int, layout: Sequence[int] = ()) -> None:
        super().__init__()
        self.bits = vocabulary.codebook_size.bit_length() - 1
        if vocabulary.codebook_size != 2**self.bits or not self.bits:
            raise DPLM2Error(
                f"structure_head bits: the number of codes must be a power of two, not {vocabulary.codebook_size}"
            )
        self.vocabulary, self.classes = vocabulary, vocabulary.generated("structure")
        self.enter = nn.Linear(self.bits, width)
        self.begin, self.end, self.masked = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.leave = OutputLayer(width, 2 * self.bits)

    @property
    def description(self) -> dict[str, Any]:
        return {"structure_head": self.name}

    def embed(self, table: nn.Embedding, ids_BT: Tensor) -> Tensor:
        """See the interface. ``<unk_struct>`` is embedded as if all bits were set, as in the authors' program."""
        vocabulary = self.vocabulary
        sequence_BT = vocabulary.is_sequence(ids_BT)
        signs_BTQ = indices_to_codes(ids_BT - vocabulary.first_code, self.bits).to(self.enter.weight.dtype)
        embeddings_BTD = self.enter(signs_BTQ)
        special = {
            vocabulary.cls_structure: self.begin,
            vocabulary.eos_structure: self.end,
            vocabulary.mask_structure: self.masked,
        }
        for index, vector_D in special.items():
            embeddings_BTD = torch.where((ids_BT == index).unsqueeze(-1), vector_D, embeddings_BTD)
        rows_BT = ids_BT.masked_fill(~sequence_BT, vocabulary.pad)
        return torch.where(sequence_BT.unsqueeze(-1), table(rows_BT), embeddings_BTD)

    def bit_logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, Q, 2) of each bit: unset, set."""
        return self.leave(hidden_ND).unflatten(-1, (self.bits, 2))

    def logits(self, lm_head: nn.Module, hidden_ND: Tensor) -> Tensor:
        """See the interface. A product of the bits' log-odds with the codes' signs, in float32."""
        log_odds_NQ = self._log_odds(hidden_ND)
        with torch.autocast(log_odds_NQ.device.type, enabled=False):
            signs_CQ = indices_to_codes(torch.arange(len(self.classes), device=log_odds_NQ.device), self.bits)
            return (log_odds_NQ / 2) @ signs_CQ.T

    def nll(self, lm_head: nn.Module, hidden_ND: Tensor, ids_N: Tensor) -> Tensor:
        """See the interface. The sum of the bits' binary cross-entropies.

        The authors' released loss ignores every target equal to 1, the id of padding, and thereby every set bit; here
        padding is ignored by position.
        """
        signs_NQ = indices_to_codes(ids_N - self.classes.start, self.bits)
        return functional.softplus(-signs_NQ * self._log_odds(hidden_ND)).sum(-1)

    def _log_odds(self, hidden_ND: Tensor) -> Tensor:
        """Log-odds (N, Q) that each bit is set, in float32."""
        unset_NQ, set_NQ = self.bit_logits(hidden_ND).float().unbind(-1)
        return set_NQ - unset_NQ

    @torch.no_grad()
    def start(self, model: Esm2, seed: int, code_values_CV: Tensor | None = None) -> None:
        """See the interface. The distributions are those of the authors' program."""
        if code_values_CV is not None:
            raise ConfigError(f"warmup.structure_tokens: code has no effect with structure_head {self.name}; omit it")
        generator = torch.Generator().manual_seed(seed)
        bound = self.bits**-0.5  # torch's default for a linear layer
        for parameter in (self.enter.weight, self.enter.bias):
            parameter.uniform_(-bound, bound, generator=generator)
        for vector_D in (self.begin, self.end, self.masked):
            vector_D.normal_(generator=generator)
        self.leave.start(model.config.initializer_range, NEW_ROW_SPREAD, generator)

    def check(self, settings: DiffusionSettings) -> None:
        if settings.classes == "all":
            raise ConfigError(
                f"diffusion.classes: all: with structure_head {self.name} each track has its own softmax; use track"
            )
        if settings.unobserved_structure == "unknown":
            raise ConfigError(
                "diffusion.unobserved_structure: unknown: structure_head bits embeds <unk_struct> as the last code; "
                "use mask or learn"
            )
