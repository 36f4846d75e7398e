"""AdamW over what is trained, its learning rate, and the moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dplm2.errors import DPLM2Error
from dplm2.training.settings import TrainingSettings


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Learning rate of update ``step``, counted from 0: linear warm-up, then polynomial decay (or none).

    The decay reaches ``final_learning_rate`` after the last update: at step ``settings.steps``.
    """
    peak, warmup = settings.learning_rate, settings.warmup
    if step < warmup:
        return settings.initial_learning_rate + (peak - settings.initial_learning_rate) * step / warmup
    if settings.schedule == "constant":
        return peak
    left = max(0.0, 1 - (step - warmup) / (settings.steps - warmup))
    return settings.last_learning_rate + (peak - settings.last_learning_rate) * left**settings.decay_power


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name.

    Raises
    ------
    DPLM2Error
        If there is none.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not trained:
        raise DPLM2Error("every weight of the network is frozen: nothing to train")
    return trained


def make_optimizer(module: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the trained parameters of ``module``, in one group or, unless ``decay_all``, in two."""
    trained = trained_parameters(module)
    exempt = set() if settings.decay_all else _exempt_from_decay(module)
    groups = [
        {"params": [p for name, p in trained.items() if name not in exempt], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in trained.items() if name in exempt], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=next(iter(trained.values())).device.type in ("cpu", "cuda"),
    )


def _exempt_from_decay(module: nn.Module) -> set[str]:
    exempt = {name for name, parameter in module.named_parameters() if parameter.ndim < 2}
    for prefix, part in module.named_modules():
        if isinstance(part, nn.Embedding):
            exempt |= {f"{prefix}.{name}".lstrip(".") for name, _ in part.named_parameters()}
    return exempt


class MovingAverage:
    """Exponential moving average of trained weights.

    The factor of update n is ``min(decay, (1 + n) / (10 + n))``: early on it is small, so that the initial weights are
    soon forgotten.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._trained = dict(trained)
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update ``step``, counted from 0."""
        factor = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in self._trained.values()], 1 - factor)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the network's weights."""
        for name, parameter in self._trained.items():
            held = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(held)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the network has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
