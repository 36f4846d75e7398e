"""Values computed from weights, cached until the weights change."""

import weakref
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from dplm2.cpu import torch_private
from dplm2.cpu.routine import routine

Computed = TypeVar("Computed")
_kept: weakref.WeakKeyDictionary[nn.Module, tuple[tuple, object]] = weakref.WeakKeyDictionary()


def cached_from_weights(module: nn.Module, dtype: torch.dtype, compute: Callable[[], Computed]) -> Computed:
    """What ``compute`` makes of the parameters of a module for inputs of a type.

    It is computed when it is first asked for and again after a parameter, the type or the routine of products
    changed; each time while gradients are recorded or the network is compiled, and where parameters do not tell of
    changes (those made in inference mode).
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute()
    versions = [(parameter.data_ptr(), torch_private.changes(parameter)) for parameter in module.parameters()]
    if any(changes is None for _, changes in versions):
        return compute()
    key = (dtype, torch.is_autocast_enabled("cpu"), routine(dtype), *versions)
    if module not in _kept or _kept[module][0] != key:
        _kept[module] = key, compute()
    return _kept[module][1]
