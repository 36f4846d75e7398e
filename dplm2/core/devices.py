"""Selection of the device on which networks run."""

import os

from dplm2.core.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def is_first_process() -> bool:
    """Whether this process is the first, or only, one of its training: the others do not write its log."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def pick_device(name: str) -> str:
    """The device that ``auto`` selects on this machine; any other name is returned unchanged if the device exists.

    Raises
    ------
    ConfigError
        If the machine has no such device.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        raise ConfigError(f"device: this machine has no {name}")
    return name
