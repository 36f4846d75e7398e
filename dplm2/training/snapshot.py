"""All tensors that a training goes on from, as one flat mapping of names to tensors, and back.

Names are ``parameter/<name>``, ``buffer/<name>``, ``average/<name>`` and ``optimizer/<key>/<name>``. Frozen weights are
left out: the task brings them along.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dplm2.core.errors import DPLM2Error
from dplm2.training.devices import like, whole
from dplm2.training.optimizer import MovingAverage


def collect(
    module: nn.Module,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    *,
    keep: bool,
) -> dict[str, Tensor]:
    """The tensors, made whole where they are shared out; every process must call this, those with ``keep`` get them."""
    found: dict[str, Tensor] = {}

    def add(name: str, tensor: Tensor, copy: bool = False) -> None:
        tensor = whole(tensor.detach())
        if keep:
            # What is written at once needs no copy, except where a file of tensors refuses shared memory.
            found[name] = tensor.clone() if copy else tensor.contiguous()

    for name, parameter in trained.items():
        add(f"parameter/{name}", parameter)
        for key, value in optimizer.state.get(parameter, {}).items():
            add(f"optimizer/{key}/{name}", value)
    for name, buffer in _persistent_buffers(module).items():
        add(f"buffer/{name}", buffer, copy=True)
    if average is not None:
        for name, weight in average.weights.items():
            add(f"average/{name}", weight)
    return found


@torch.no_grad()
def restore(
    tensors: Iterable[tuple[str, Tensor]],
    module: nn.Module,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
) -> None:
    """Put collected tensors back to where they were.

    Raises
    ------
    DPLM2Error
        If they are not those of this network.
    """
    targets: dict[str, Tensor] = {f"parameter/{name}": parameter for name, parameter in trained.items()}
    targets |= {f"buffer/{name}": buffer for name, buffer in _persistent_buffers(module).items()}
    if average is not None:
        targets |= {f"average/{name}": weight for name, weight in average.weights.items()}
    missing = set(targets)
    for name, tensor in tensors:
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            key, _, owner = rest.partition("/")
            _restore_optimizer(optimizer, trained.get(owner), key, tensor, name)
        elif name not in targets or targets[name].shape != tensor.shape:
            raise DPLM2Error(
                f"the saved state holds {name} {tuple(tensor.shape)}, which this network has not; {_ADVICE}"
            )
        else:
            targets[name].copy_(like(tensor, targets[name]))
            missing.discard(name)
    if missing:
        raise DPLM2Error(f"the saved state lacks {', '.join(sorted(missing)[:5])}; {_ADVICE}")


_ADVICE = "it was made by other code under the same settings: remove the state folder to start from the beginning"


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter | None, key: str, tensor: Tensor, name: str
) -> None:
    if parameter is None:
        raise DPLM2Error(f"the saved state holds {name}, which this network has not; {_ADVICE}")
    if tensor.shape == parameter.shape and key != "step":
        tensor = like(tensor, parameter.detach())
    elif optimizer.defaults.get("fused"):
        tensor = tensor.to(parameter.device)
    optimizer.state[parameter][key] = tensor


def _persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}
