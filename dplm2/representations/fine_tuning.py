"""Fine-tuning on a task: a head on the language model, trained together with all its weights or with low-rank updates.

The head reads what a probe reads (`dplm2.representations.features`): the mean over the known residues of each track, or
the vector of a residue; of a pair of proteins a and b their a + b, |a - b| and a * b.

Shapes: B proteins of a batch, T tokens (both tracks), N items of a batch, M all items, D model width, F features, C
outputs.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dplm2.core.batching import by_length
from dplm2.core.errors import DPLM2Error
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import ids_of
from dplm2.generation.task import Target
from dplm2.language import lora
from dplm2.language.layout import EDGES, join
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import TRACKS, Track
from dplm2.representations.embedding import mean_of_known
from dplm2.representations.probe import Items, Probe, check_splits, labelled_items, objective_of, scored
from dplm2.representations.tasks import Task
from dplm2.settings.model import LoraSettings

Trained = Literal["lora", "full"]
LEARNING_RATES: Mapping[Trained, float] = {"lora": 3e-4, "full": 2e-5}
"""Of the network; ``full``: SaProt's and DPLM's, for models of 650 million weights. That of small ones is higher."""


@dataclass(frozen=True)
class FineTuning:
    """How the network is trained.

    Attributes
    ----------
    trained
        ``lora``: low-rank updates of the attention and feed-forward matrices; ``full``: all weights.
    learning_rate
        Of the network, after an epoch of warm-up; None: that of `LEARNING_RATES`.
    head_learning_rate, hidden, dropout
        Of the head, which has one hidden layer.
    weight_decay, betas
        Of AdamW, as SaProt's and DPLM's.
    batch
        Rows of the table per update.
    epochs, patience
        At most so many; training stops when the validation loss has not fallen for ``patience`` epochs.
    token_budget
        Maximum number of tokens in memory at once, including padding; it changes no result but by rounding.
    bfloat16
        Whether the network computes in bfloat16.
    rank, alpha
        Of the low-rank updates.
    """

    trained: Trained = "lora"
    learning_rate: float | None = None
    head_learning_rate: float = 1e-3
    hidden: int = 256
    dropout: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    batch: int = 16
    epochs: int = 50
    patience: int = 5
    token_budget: int = 8192
    bfloat16: bool = False
    rank: int = 16
    alpha: float = 32


def fine_tune(
    model: DPLM2, task: Task, targets: Sequence[Target], seed: int, settings: FineTuning | None = None
) -> tuple[Items, Probe]:
    """Fine-tune a copy of the model on the training rows; the epoch with the lowest validation loss counts.

    Parameters
    ----------
    model
        The language model, which is not changed.
    task
        The table.
    targets
        Its proteins, from `dplm2.representations.features.proteins_of`.
    seed
        Of the head, of the order of the rows, and of dropout.
    settings
        How the network is trained.

    Returns
    -------
    tuple
        The items of the task, and their predictions and scores.

    Raises
    ------
    DPLM2Error
        If a split has no label, the training rows have one class only, proteins share no track, or a label does not
        fit its protein.
    """
    settings = settings or FineTuning()
    items = labelled_items(task, _row_lengths(task, targets))
    check_splits(items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = _Run(model, task, targets, items, settings, seed)
        return items, run.fit()


def _row_lengths(task: Task, targets: Sequence[Target]) -> list[int]:
    lengths = {target.name: target.length for target in targets}
    return [lengths[name] for name in task.rows["id"]]


def _shared_tracks(targets: Sequence[Target]) -> list[Track]:
    """The tracks that all proteins have, in the order of a batch."""
    has = {"structure": [t.structure_tokens for t in targets], "sequence": [t.sequence for t in targets]}
    tracks = [track for track in TRACKS if all(own is not None for own in has[track])]
    if not tracks:
        raise DPLM2Error("no track is there for all proteins; choose one with --tracks")
    return tracks


class _Run:
    """One training: a copy of the network, a head, and the data."""

    def __init__(self, model: DPLM2, task: Task, targets, items: Items, settings: FineTuning, seed: int) -> None:
        self.settings, self.items, self.of_residues = settings, items, task.is_of_residues
        self.vocabulary, self.tracks = model.vocabulary, _shared_tracks(targets)
        self.ids = {target.name: ids_of(target, model.vocabulary) for target in targets}
        self.names = task.rows[task.name_columns].to_numpy()
        self.items_of_row = np.split(np.arange(len(items.rows)), np.searchsorted(items.rows, range(1, len(self.names))))
        self.targets, self.loss, self.read = objective_of(items)
        self.network = _trainable(model.network, settings, seed)
        width = len(self.tracks) * model.network.model.config.hidden_size * (3 if task.is_of_pairs else 1)
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Dropout(settings.dropout),
            nn.Linear(width, settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, items.outputs),
        ).to(model.network.device)
        self.random = np.random.default_rng(seed)

    def fit(self) -> Probe:
        """Train until the validation loss no longer falls; predict all items with the best weights."""
        settings, train, validation = self.settings, self._rows("train"), self._rows("validation")
        own = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        rate = settings.learning_rate or LEARNING_RATES[settings.trained]
        optimizer = torch.optim.AdamW(
            [{"params": own, "lr": rate}, {"params": self.head.parameters(), "lr": settings.head_learning_rate}],
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        updates = -(-len(train) // settings.batch)
        warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / updates))
        lowest, best, best_epoch = np.inf, None, 0
        with tqdm(total=settings.epochs, desc=settings.trained, unit="epoch", disable=None) as bar:
            for epoch in range(1, settings.epochs + 1):
                self._train(train, optimizer, warmup)
                outputs_MC = self._outputs(validation)
                where = self._items(validation)
                found = float(self.loss(outputs_MC[where], self.targets[where]))
                bar.set_postfix(validation_loss=f"{found:.4f}")
                bar.update()
                if best is None or found < lowest:
                    lowest, best, best_epoch = found, self._state(), epoch
                if epoch - best_epoch >= settings.patience:
                    break
        self._restore(best)
        return scored(self.items, self.read(self._outputs(np.arange(len(self.names)))), best_epoch)

    def _rows(self, split: str) -> np.ndarray:
        """Rows of a split with a labelled item."""
        return np.unique(self.items.rows[self.items.splits == split])

    def _items(self, rows: Sequence[int]) -> np.ndarray:
        return np.concatenate([self.items_of_row[row] for row in rows])

    def _batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Rows that fit into memory together."""
        costs = [
            max(len(self.tracks) * (len(self.ids[name][self.tracks[0]]) + EDGES) for name in self.names[row])
            * len(self.names[row])
            for row in rows
        ]
        for batch in by_length(costs, self.settings.token_budget):
            yield rows[batch]

    def _train(self, rows: np.ndarray, optimizer: torch.optim.Optimizer, warmup) -> None:  # noqa: ANN001
        self.network.train()
        self.head.train()
        order = self.random.permutation(rows)
        for start in range(0, len(order), self.settings.batch):
            update = order[start : start + self.settings.batch]
            total = len(self._items(update))
            optimizer.zero_grad()
            for part in self._batches(update):
                where = self._items(part)
                targets = self.targets[where].to(self.network.device)
                (self.loss(self._forward(part), targets) * (len(where) / total)).backward()
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            warmup.step()

    @torch.no_grad()
    def _outputs(self, rows: np.ndarray) -> Tensor:
        """Outputs (M, C) of the items of some rows; zeros elsewhere."""
        self.network.eval()
        self.head.eval()
        outputs_MC = torch.zeros(len(self.items.rows), self.items.outputs)
        for part in self._batches(rows):
            outputs_MC[self._items(part)] = self._forward(part).cpu()
        return outputs_MC

    def _forward(self, rows: np.ndarray) -> Tensor:
        """Outputs (N, C) of the items of some rows, in the order of `_items`."""
        names = list(dict.fromkeys(self.names[rows].ravel()))
        numbers = torch.tensor([[names.index(name) for name in self.names[row]] for row in rows])
        halves = self._halves([self.ids[name] for name in names])
        if self.of_residues:
            where = self._items(rows)
            number_of_row = {row: int(number) for row, number in zip(rows.tolist(), numbers[:, 0], strict=True)}
            proteins = torch.tensor([number_of_row[row] for row in self.items.rows[where].tolist()])
            positions = torch.from_numpy(self.items.positions[where])  # after the token that begins the track
            features_NF = torch.cat([hidden_BHD[proteins, positions].float() for _, hidden_BHD, _ in halves], -1)
        else:
            means = [mean_of_known(hidden, ids, self.vocabulary, track)[0] for track, hidden, ids in halves]
            vectors_BF = torch.cat(means, -1)
            features_NF = vectors_BF[numbers[:, 0]]
            if numbers.shape[1] == 2:
                other_NF = vectors_BF[numbers[:, 1]]
                features_NF = torch.cat(
                    [features_NF + other_NF, (features_NF - other_NF).abs(), features_NF * other_NF], -1
                )
        return self.head(features_NF)

    def _halves(self, ids: Sequence[dict[Track, np.ndarray]]) -> list[tuple[Track, Tensor, Tensor]]:
        """Of each track, the sequence first, hidden states (B, H, D) and ids (B, H)."""
        tracks = ([own[track] if track in self.tracks else None for own in ids] for track in TRACKS)
        ids_BT = join(self.vocabulary, *tracks).to(self.network.device)
        with torch.autocast(self.network.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            hidden_BTD = self.network.hidden(ids_BT)
        half = ids_BT.shape[1] // len(self.tracks)
        columns = [slice(number * half, (number + 1) * half) for number in range(len(self.tracks))]
        halves = [(t, hidden_BTD[:, own], ids_BT[:, own]) for t, own in zip(self.tracks, columns, strict=True)]
        return halves[::-1]

    def _state(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._trained()]

    def _restore(self, state: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, kept in zip(self._trained(), state, strict=True):
                parameter.copy_(kept)

    def _trained(self) -> list[nn.Parameter]:
        return [*(p for p in self.network.parameters() if p.requires_grad), *self.head.parameters()]


def _trainable(network: MultimodalEsm, settings: FineTuning, seed: int) -> MultimodalEsm:
    """A copy of the network of which all weights, or low-rank updates alone, are trained."""
    network = copy.deepcopy(network)
    if settings.trained == "lora":
        lora.add(network.model, LoraSettings(enabled=True, rank=settings.rank, alpha=settings.alpha), seed)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(settings.trained == "full" or "lora_" in name)
    return network
