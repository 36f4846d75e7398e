"""Low-rank adaptation of the language model with peft, and its exact merge (paper section 3.1)."""

import torch

from dplm2.language.esm import Esm2
from dplm2.settings.model import LoraSettings

TARGETS = r".*\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|\d+\.output\.dense)"
"""The matrices with a low-rank update: those of attention and feed-forward layers."""

TRAINED_FULLY = ("lm_head.", "esm.embeddings.")
"""Parameters of the network that are trained besides the updates, as is the structure head."""

_ADAPTER = "default"


def add(model: Esm2, settings: LoraSettings, seed: int) -> None:
    """Add low-rank updates in place; freeze all other parameters except the embeddings and the output head.

    The updates are initially zero, so that the model's output does not change.
    """
    import peft  # takes as long as a short run, and few models need it

    layers = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=TARGETS, bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(layers, model, adapter_name=_ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(TRAINED_FULLY))
    model.train(model.training)  # sets the mode of the new layers


@torch.no_grad()
def merge(model: Esm2) -> None:
    """Replace each updated matrix W by ``W + alpha / rank * B A`` in place and remove the adapters.

    The sum is computed in double precision and rounded once.
    """
    for name, module in list(model.named_modules()):
        if not hasattr(module, "lora_A"):
            continue
        linear = module.get_base_layer()
        update = module.lora_B[_ADAPTER].weight.double() @ module.lora_A[_ADAPTER].weight.double()
        merged = linear.weight.double() + module.scaling[_ADAPTER] * update
        linear.weight.copy_(merged.to(linear.weight.dtype))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(True)
