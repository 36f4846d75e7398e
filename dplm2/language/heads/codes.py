"""``codes``: a separate row for each structure token, as in the released DPLM-2 (paper section 3.1).

The rows are in the network's own tables, after those of the amino acids: the model is an ESM-2.

Shapes: B batch, T tokens (both tracks), N selected positions, D model width, C classes of the structure track, V
values of a code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dplm2.cpu.products import linear
from dplm2.language.esm import Esm2, features
from dplm2.language.heads.interface import Official, Sampling
from dplm2.language.heads.rows import NEW_ROW_SPREAD, smooth_features
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.model import DiffusionSettings


class Codes(nn.Module):
    """See `dplm2.language.heads.interface.StructureHead`; has no weights of its own."""

    name = "codes"
    one_softmax = True
    # The authors' later recommendation for the released models; the paper's tables use annealing@2.0:1.0.
    sampling = Sampling("annealing@2.0:0.1", {"structure": 0.95, "sequence": 0.95})
    official = Official("dplm2_esm", "EsmForDPLM2", "released", {})

    def __init__(self, vocabulary: Vocabulary, width: int, layout: Sequence[int] = ()) -> None:
        super().__init__()
        self.vocabulary, self.classes, self.table_rows = vocabulary, vocabulary.classes("structure"), vocabulary.size

    @property
    def description(self) -> dict[str, Any]:
        return {"structure_head": self.name}

    def embed(self, table: nn.Embedding, ids_BT: Tensor) -> Tensor:
        return table(ids_BT)

    def logits(self, lm_head: nn.Module, hidden_ND: Tensor) -> Tensor:
        rows = slice(self.classes.start, self.classes.stop)
        return linear(features(lm_head, hidden_ND), lm_head.decoder.weight[rows], lm_head.bias[rows])

    def nll(self, lm_head: nn.Module, hidden_ND: Tensor, ids_N: Tensor) -> Tensor:
        logits_NC = self.logits(lm_head, hidden_ND).float()
        return functional.cross_entropy(logits_NC, ids_N - self.classes.start, reduction="none")

    @torch.no_grad()
    def start(self, model: Esm2, seed: int, code_values_CV: Tensor | None = None) -> None:
        """Add the rows to the network's tables.

        The 33 rows of the sequence model do not change. New embeddings are drawn, per dimension, from the normal
        distribution with the mean and standard deviation of these; new rows of the output layer from N(0, 0.02^2), with
        bias 0. With ``code_values_CV`` rows have the same mean and standard deviation, but those of codes with similar
        values are similar, so that training on a code also improves its neighbours from the first step.
        """
        vocabulary, generator = self.vocabulary, torch.Generator().manual_seed(seed)
        table, head = model.esm.embeddings.word_embeddings, model.lm_head
        new = vocabulary.size - table.num_embeddings
        width = table.embedding_dim
        mean, spread = table.weight.mean(0), table.weight.std(0)
        noise, output_noise = (torch.randn(new, width, generator=generator) for _ in range(2))
        if code_values_CV is not None:
            first = vocabulary.first_code - table.num_embeddings
            for rows in (noise, output_noise):
                rows[first : first + vocabulary.codebook_size] = smooth_features(code_values_CV, width, generator)
        rows = mean + spread * noise
        extended = nn.Embedding(vocabulary.size, width, padding_idx=vocabulary.pad, _weight=_stack(table.weight, rows))
        model.esm.embeddings.word_embeddings = extended
        decoder = nn.Linear(width, vocabulary.size, bias=False, device="meta")
        decoder.weight = nn.Parameter(_stack(head.decoder.weight, NEW_ROW_SPREAD * output_noise))
        head.decoder = decoder
        head.bias = nn.Parameter(_stack(head.bias, torch.zeros(new)))
        model.config.vocab_size = vocabulary.size

    def check(self, settings: DiffusionSettings) -> None:
        """Do nothing: the head supports every objective."""


def _stack(old: Tensor, new: Tensor) -> Tensor:
    return torch.cat([old.detach(), new.to(old)])
