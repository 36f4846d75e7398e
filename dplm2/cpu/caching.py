"""Values computed from weights, cached until the weights change."""

import weakref
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from dplm2.cpu import torch_private
from dplm2.cpu.routine import routine

Computed = TypeVar("Computed")
_cache: weakref.WeakKeyDictionary[nn.Module, tuple[tuple, object]] = weakref.WeakKeyDictionary()


def cached_from_weights(module: nn.Module, dtype: torch.dtype, compute: Callable[[], Computed]) -> Computed:
    """The result of ``compute``, which depends on a module's parameters and the type of its inputs, from a cache.

    It is computed again if a parameter, the type or the library for products changed. It is not cached while gradients
    are recorded, in compiled networks, and if changes of parameters cannot be detected (created in inference mode).
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute()
    versions = [(parameter.data_ptr(), torch_private.changes(parameter)) for parameter in module.parameters()]
    if any(changes is None for _, changes in versions):
        return compute()
    key = (dtype, torch.is_autocast_enabled("cpu"), routine(dtype), *versions)
    if module not in _cache or _cache[module][0] != key:
        _cache[module] = key, compute()
    return _cache[module][1]
