"""The device selected by a name on this machine."""

import pytest
import torch

from dplm2.core.devices import DEVICES, pick_device
from dplm2.core.errors import ConfigError


def machine(monkeypatch, *available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in available)


@pytest.mark.parametrize(
    ("available", "picked"), [((), "cpu"), (("cuda",), "cuda"), (("mps",), "mps"), (("cuda", "mps"), "cuda")]
)
def test_auto_selects_an_available_device(monkeypatch, available, picked):
    machine(monkeypatch, *available)
    assert pick_device("auto") == picked
    for name in set(DEVICES) - {"auto"}:
        if name in ("cpu", *available):
            assert pick_device(name) == name
        else:
            with pytest.raises(ConfigError, match=f"device: this machine has no {name}"):
                pick_device(name)
