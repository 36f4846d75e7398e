"""All tensors of a training's state as one flat mapping of names to tensors, and back.

Names are ``parameter/<name>``, ``buffer/<name>``, ``average/<name>`` and ``optimizer/<key>/<name>``. Frozen weights are
not included: the task provides them.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dplm2.core.errors import DPLM2Error
from dplm2.training.devices import gathered, sharded_like
from dplm2.training.optimizer import MovingAverage


def collect(
    module: nn.Module,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    *,
    keep: bool,
) -> dict[str, Tensor]:
    """The tensors, gathered if sharded; every process must call this, those with ``keep`` get the result."""
    found: dict[str, Tensor] = {}

    def add(name: str, tensor: Tensor, copy: bool = False) -> None:
        tensor = gathered(tensor.detach())
        if keep:
            # Tensors that are written immediately need no copy, unless they share memory, which safetensors rejects.
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
    """Restore collected tensors.

    Raises
    ------
    DPLM2Error
        If they do not belong to this network.
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
                f"the saved state contains {name} {tuple(tensor.shape)}, which this network lacks; {_ADVICE}"
            )
        else:
            targets[name].copy_(sharded_like(tensor, targets[name]))
            missing.discard(name)
    if missing:
        raise DPLM2Error(f"the saved state lacks {', '.join(sorted(missing)[:5])}; {_ADVICE}")


_ADVICE = "it was written by other code with the same settings: remove the state folder to start from the beginning"


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter | None, key: str, tensor: Tensor, name: str
) -> None:
    if parameter is None:
        raise DPLM2Error(f"the saved state contains {name}, which this network lacks; {_ADVICE}")
    if tensor.shape == parameter.shape and key != "step":
        tensor = sharded_like(tensor, parameter.detach())
    elif optimizer.defaults.get("fused"):
        tensor = tensor.to(parameter.device)
    optimizer.state[parameter][key] = tensor


def _persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in saved}
