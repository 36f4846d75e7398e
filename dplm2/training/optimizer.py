"""The optimiser of the trained weights, its learning rate, and the moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dplm2.core.errors import DPLM2Error
from dplm2.settings.training import TrainingSettings

MOMENTUM = 0.95  # of Muon, with Nesterov momentum
NEWTON_SCHULZ, NEWTON_SCHULZ_ROUNDS = (3.4445, -4.7750, 2.0315), 5
SMALLEST_NORM = 1e-7
UPDATE_SIZE = 0.2  # root mean square of a matrix update, about that of AdamW


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
        raise DPLM2Error("all weights of the network are frozen: nothing to train")
    return trained


def make_optimizer(module: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW or Muon for the trained parameters of ``module``, grouped by weight decay and matrix shape."""
    trained = trained_parameters(module)
    exempt = set() if settings.decay_all else _exempt_from_decay(module)
    matrices = _matrices(module) if settings.optimizer == "muon" else set()
    groups = {}
    for name, parameter in trained.items():
        groups.setdefault((name in exempt, name in matrices), []).append(parameter)
    made = [
        {"params": parameters, "weight_decay": 0.0 if is_exempt else settings.weight_decay, "orthogonal": is_matrix}
        for (is_exempt, is_matrix), parameters in groups.items()
    ]
    kind = partial(Muon, in_half=settings.precision == "bf16") if settings.optimizer == "muon" else torch.optim.AdamW
    return kind(
        made,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=next(iter(trained.values())).device.type in ("cpu", "cuda"),
    )


@torch.no_grad()
def allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Allocate the moments that the first update would, unless they were restored.

    Those allocated by the first update lie where activations were, and the activations of the next step do not fit
    between them: on a CPU, training then needs memory for both.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in optimizer.state:
                optimizer.state[parameter].update(_moments(parameter, group))


def _moments(parameter: nn.Parameter, group: dict) -> dict[str, Tensor]:
    if group.get("orthogonal"):
        return {"momentum": torch.zeros_like(parameter)}
    step = torch.zeros((), device=parameter.device if group["fused"] else "cpu")
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def _exempt_from_decay(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.ndim < 2} | _of(module, nn.Embedding)


def _matrices(module: nn.Module) -> set[str]:
    """Weights of linear layers, without embeddings and output heads over embedded tokens (a row is one token's)."""
    shapes = {part.weight.shape for part in module.modules() if isinstance(part, nn.Embedding)}
    names = {name for name in _of(module, nn.Linear) if name.endswith("weight")}
    return {name for name in names if module.get_parameter(name).shape not in shapes}


def _of(module: nn.Module, kind: type[nn.Module]) -> set[str]:
    """Names of the parameters of all submodules of some types."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        if isinstance(part, kind)
        for name, _ in part.named_parameters(recurse=False)
    }


class Muon(torch.optim.AdamW):
    """AdamW in which matrices are updated with their orthogonalised momentum (Jordan et al. 2024).

    Groups with ``orthogonal`` contain matrices. Their update has the size of AdamW's (0.2 per weight, Liu et al. 2025),
    so that all groups use the same learning rate. Torch's own Muon (from 2.9) always computes in bfloat16, which is ten
    times slower on processors without support for it; here only with ``in_half``.
    """

    def __init__(self, groups: list[dict], *, in_half: bool = False, **adamw) -> None:
        super().__init__(groups, **adamw)
        self._in_half = in_half

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update; the gradients of matrices are overwritten."""
        for group in self.param_groups:
            for parameter in group["params"] if group["orthogonal"] else ():
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])
                    parameter.grad = None
        super().step(closure)

    def _move(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        state = self.state[parameter]
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        ahead = parameter.grad.lerp(momentum, MOMENTUM)
        update = orthogonalised(ahead.bfloat16() if self._in_half else ahead)
        parameter.mul_(1 - rate * decay)
        parameter.add_(update, alpha=-rate * UPDATE_SIZE * max(parameter.shape) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Approximation of U V^T from the singular value decomposition U S V^T: singular values between 0.7 and 1.2.

    Five rounds of the quintic Newton-Schulz iteration with the coefficients of Jordan et al. (2024), which trade
    accuracy for growth of small singular values; bfloat16 suffices for them.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values = wide / wide.norm().clamp(min=SMALLEST_NORM)
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        square = values @ values.T
        values = torch.addmm(a * values, torch.addmm(b * square, square, square, alpha=c), values)
    return values if wide is matrix else values.T


class MovingAverage:
    """Exponential moving average of trained weights.

    The factor of update n is ``min(decay, (1 + n) / (10 + n))``: it is small at first, so that the initial weights are
    soon forgotten.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._trained = dict(trained)
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after update ``step``, counted from 0."""
        factor = min(self.decay, (1 + step) / (10 + step))
        update = get_ema_multi_avg_fn(factor)
        update(list(self.weights.values()), [p.detach() for p in self._trained.values()], step)

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
