"""``pairs``: a structure token as a few levels; its logit is a sum over its levels and pairs of levels.

The bits of a code are divided into groups, one per value of a tokenizer with ``bits_per_value``; a group of k bits has
2^k levels. With groups of 5, 4 and 4 bits, 32 + 16 + 16 levels and 512 + 512 + 256 pairs determine the logits of all
8,192 codes; the embedding of a code is such a sum, too. In comparison, `Codes` has a row for every combination of
levels; without pairs, levels would be independent.

Probabilities are exactly normalised over all codes. For this the groups are divided into three parts A, B and C, so
that a logit is ``ab[a, b] + ac[a, c] + bc[b, c]`` and the sum of its exponential over c is a product of two small
matrices: the loss does not need the logits of all codes.

Shapes: B batch, T tokens (both tracks), N selected positions, D model width, R rows (levels and pairs), C codes, V
values of a code.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.cpu.products import linear
from dplm2.language.esm import Esm2, OutputLayer, features
from dplm2.language.heads.interface import Sampling
from dplm2.language.heads.rows import NEW_ROW_SPREAD, smooth_features
from dplm2.language.vocabulary import SEQUENCE_IDS, Vocabulary
from dplm2.settings.model import DiffusionSettings

_MAX_GROUP_BITS = 5  # a pair of such groups has 1,024 rows
_PARTS = 3
_MIN_SUM = 1e-37  # just above the smallest normal float32


def groups_of(layout: Sequence[int]) -> tuple[int, ...]:
    """Bits of each group, from the bits of each of the tokenizer's values (``layout``).

    Values of one bit each (lookup-free quantization) are divided into at least three groups of nearly equal size.
    """
    if max(layout) > 1:
        return tuple(layout)
    count = min(len(layout), max(_PARTS, math.ceil(len(layout) / _MAX_GROUP_BITS)))
    smaller, larger = divmod(len(layout), count)
    return tuple(smaller + (number < larger) for number in range(count))


class Pairs(nn.Module):
    """See `dplm2.language.heads.interface.StructureHead`.

    Parameters
    ----------
    vocabulary, width
        Vocabulary and width of the model.
    layout
        Bits of each of the tokenizer's values; one bit each if unknown.

    Raises
    ------
    DPLM2Error
        If the number of codes differs from the number of combinations of the bits.
    """

    name = "pairs"
    table_rows = SEQUENCE_IDS
    one_softmax = False
    sampling = Sampling("annealing@2.0:0.1", {"structure": 0.95, "sequence": 0.95})
    official = None

    def __init__(self, vocabulary: Vocabulary, width: int, layout: Sequence[int] = ()) -> None:
        super().__init__()
        self.layout = tuple(layout) or (1,) * (vocabulary.codebook_size.bit_length() - 1)
        if vocabulary.codebook_size != 2 ** sum(self.layout) or vocabulary.codebook_size == 1:
            raise DPLM2Error(
                f"structure_head pairs: {vocabulary.codebook_size} codes are not the combinations of {self.layout} bits"
            )
        self.groups = groups_of(self.layout)
        self.vocabulary, self.classes = vocabulary, vocabulary.generated("structure")
        numbers = range(len(self.groups))
        self.terms = [*combinations(numbers, 1), *combinations(numbers, 2)]
        sizes = [2 ** sum(self.groups[number] for number in term) for term in self.terms]
        ends = list(accumulate(sizes))
        self.rows = {term: slice(end - size, end) for term, size, end in zip(self.terms, sizes, ends, strict=True)}
        self.register_buffer("code_rows_CR", self._code_rows(), persistent=False)
        self.enter = nn.Embedding(ends[-1], width)
        self.special = nn.Embedding(4, width)
        self.leave = OutputLayer(width, ends[-1])
        self.parts = _three_parts(self.groups)

    @property
    def description(self) -> dict[str, Any]:
        return {"structure_head": self.name, "bits_per_value": list(self.layout)}

    def levels(self) -> Tensor:
        """Level (C, groups) of each code in each group."""
        ends = torch.tensor(self.groups).cumsum(0)
        shifts = sum(self.groups) - ends
        return (torch.arange(len(self.classes))[:, None] >> shifts) & (2 ** torch.tensor(self.groups) - 1)

    def _code_rows(self) -> Tensor:
        """Indices (C, terms) of the rows whose sum is that of each code."""
        levels = self.levels()
        columns = []
        for term in self.terms:
            offset = torch.zeros(len(levels), dtype=torch.long)
            for number in term:
                offset = (offset << self.groups[number]) + levels[:, number]
            columns.append(self.rows[term].start + offset)
        return torch.stack(columns, 1)

    def embed(self, table: nn.Embedding, ids_BT: Tensor) -> Tensor:
        vocabulary = self.vocabulary
        sequence_BT = vocabulary.is_sequence(ids_BT)
        codes_BT = (ids_BT - vocabulary.first_code).clamp(0, vocabulary.codebook_size - 1)
        rows = self.code_rows_CR[codes_BT.flatten()]
        codes_BTD = functional.embedding_bag(rows, self.enter.weight, mode="sum").unflatten(0, ids_BT.shape)
        # The ids of begin, end and unknown precede the codes; that of the mask follows them.
        special_BT = torch.where(ids_BT == vocabulary.mask_structure, 3, ids_BT - vocabulary.cls_structure).clamp(0, 3)
        is_code_BT = (ids_BT >= self.classes.start) & (ids_BT < self.classes.stop)
        structure_BTD = torch.where(is_code_BT.unsqueeze(-1), codes_BTD, self.special(special_BT))
        rows_BT = ids_BT.masked_fill(~sequence_BT, vocabulary.pad)
        return torch.where(sequence_BT.unsqueeze(-1), table(rows_BT), structure_BTD)

    def tables(self, hidden_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tables ab (N, A, B), ac (N, A, C) and bc (N, B, C) whose sums are the logits, in float32."""
        weights = self._part_rows(self.leave.decoder.weight)
        biases = self._part_rows(self.leave.bias.unsqueeze(-1))
        outputs = linear(
            features(self.leave, hidden_ND),
            torch.cat([weight.flatten(0, 1) for weight in weights]),
            torch.cat([bias.flatten() for bias in biases]),
        )
        tables = outputs.float().split([bias.numel() for bias in biases], -1)
        ab, ac, bc = (part.unflatten(-1, bias.shape[:2]) for part, bias in zip(tables, biases, strict=True))
        return ab, ac, bc

    def _part_rows(self, rows_RD: Tensor) -> list[Tensor]:
        """Rows of the three tables (levels of one part, levels of the other, D); each term is in exactly one table."""
        remaining = list(self.terms)
        tables = []
        for first, second in combinations(self.parts, 2):
            numbers = (*first, *second)
            inside = [term for term in remaining if set(term) <= set(numbers)]
            remaining = [term for term in remaining if term not in inside]
            sizes = [2 ** self.groups[number] for number in numbers]
            total = rows_RD.new_zeros(*sizes, rows_RD.shape[1])
            for term in inside:
                shape = [size if number in term else 1 for number, size in zip(numbers, sizes, strict=True)]
                total = total + rows_RD[self.rows[term]].view(*shape, -1)
            split = math.prod(sizes[: len(first)])
            tables.append(total.reshape(split, math.prod(sizes) // split, -1))
        return tables

    def logits(self, lm_head: nn.Module, hidden_ND: Tensor) -> Tensor:
        ab, ac, bc = self.tables(hidden_ND)
        return (ab[:, :, :, None] + ac[:, :, None, :] + bc[:, None, :, :]).flatten(1)

    def nll(self, lm_head: nn.Module, hidden_ND: Tensor, ids_N: Tensor) -> Tensor:
        ab, ac, bc = self.tables(hidden_ND)
        bits_b, bits_c = (sum(self.groups[number] for number in part) for part in self.parts[1:])
        codes_N = ids_N - self.classes.start
        a, b, c = codes_N >> (bits_b + bits_c), (codes_N >> bits_c) & (2**bits_b - 1), codes_N & (2**bits_c - 1)
        each = torch.arange(len(codes_N), device=codes_N.device)
        return log_total(ab, ac, bc) - (ab[each, a, b] + ac[each, a, c] + bc[each, b, c])

    @torch.no_grad()
    def start(self, model: Esm2, seed: int, code_values_CV: Tensor | None = None) -> None:
        """See the interface. Codes' embeddings have the mean and standard deviation of those of the amino acids.

        With ``code_values_CV``, rows of levels with similar values are similar.
        """
        generator = torch.Generator().manual_seed(seed)
        table = model.esm.embeddings.word_embeddings.weight
        mean, spread = table.mean(0), table.std(0)
        count, width = len(self.terms), table.shape[1]
        self.special.weight.copy_(mean + spread * torch.randn(4, width, generator=generator))
        rows = self._random_rows(width, code_values_CV, generator)
        self.enter.weight.copy_(mean / count + spread / count**0.5 * rows)
        row_spread = NEW_ROW_SPREAD / count**0.5
        self.leave.start(model.config.initializer_range, row_spread, generator)
        if code_values_CV is not None:
            self.leave.decoder.weight.copy_(row_spread * self._random_rows(width, code_values_CV, generator))

    def _random_rows(self, width: int, code_values_CV: Tensor | None, generator: torch.Generator) -> Tensor:
        """Random rows (R, D); those of each term have mean 0 and variance 1."""
        parts = []
        for term, indices in self.rows.items():
            if code_values_CV is None:
                rows = torch.randn(indices.stop - indices.start, width, generator=generator)
            else:
                rows = smooth_features(self._values_of(term, code_values_CV), width, generator)
            # Standardised, because a term has few rows, and their mean would be added to all codes.
            parts.append((rows - rows.mean(0)) / rows.std(0, correction=0))
        return torch.cat(parts)

    def _values_of(self, term: tuple[int, ...], code_values_CV: Tensor) -> Tensor:
        """Quantized values (rows, values of the term's groups) of the rows of a term."""
        group_of_value = torch.arange(len(self.groups))
        if self.groups != self.layout:
            group_of_value = group_of_value.repeat_interleave(torch.tensor(self.groups))
        others = [number for number in range(len(self.groups)) if number not in term]
        # Codes whose other levels are 0 are in the order of the term's rows.
        chosen_C = (self.levels()[:, others] == 0).all(1)
        return code_values_CV[chosen_C][:, torch.isin(group_of_value, torch.tensor(term))]

    def check(self, settings: DiffusionSettings) -> None:
        if settings.classes == "all":
            raise ConfigError(
                f"diffusion.classes: all: with structure_head {self.name} each track has its own softmax; use track"
            )


def log_total(ab: Tensor, ac: Tensor, bc: Tensor) -> Tensor:
    """Logarithm (N,) of the sum over all a, b, c of ``exp(ab[a, b] + ac[a, c] + bc[b, c])``.

    Exact in float32 as long as neither ``ac`` nor ``bc`` varies by more than 40 nats along c.
    """
    with torch.autocast(ab.device.type, enabled=False):
        max_a, max_b = ac.detach().amax(-1, keepdim=True), bc.detach().amax(-1, keepdim=True)
        sums = (ac - max_a).exp() @ (bc - max_b).exp().mT
        log_sums = sums.clamp(min=_MIN_SUM).log() + max_a + max_b.mT
        return (ab + log_sums).flatten(1).logsumexp(-1)


def _three_parts(groups: Sequence[int]) -> list[tuple[int, ...]]:
    """Divide the groups' numbers into three consecutive, possibly empty, parts with the smallest tables of pairs."""

    def cost(cuts: tuple[int, int]) -> int:
        first, second = cuts
        bits = [sum(part) for part in (groups[:first], groups[first:second], groups[second:])]
        return sum(2 ** (one + other) for one, other in combinations(bits, 2))

    cuts = range(1, len(groups) + 1)
    first, second = min(((i, j) for i in cuts for j in cuts if i <= j), key=cost)
    numbers = tuple(range(len(groups)))
    return [numbers[:first], numbers[first:second], numbers[second:]]
