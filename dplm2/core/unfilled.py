"""Networks without storage, whose weights are assigned after their construction."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Within this context modules have weights without storage, which takes no memory however large they are.

    Initial values are not drawn: without storage torch does this with its compiler, whose import takes as long as that
    of all the rest of torch.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        options = options or {}
        if function.__name__ in ("normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_"):
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **options)
