"""Low-rank adaptation of the language model with peft, and its exact merge (paper section 3.1)."""

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import EsmForMaskedLM

from dplm2.language import attention
from dplm2.language.settings import LoraSettings

TARGETS = r".*\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|\d+\.output\.dense)"
"""The matrices that get an update: attention and feed-forward layers."""

TRAINED_FULLY = ("lm_head.", "esm.embeddings.")
_ADAPTER = "default"


def add(model: EsmForMaskedLM, settings: LoraSettings, seed: int = 0) -> None:
    """Add low-rank updates in place; freeze all else but the embeddings and the output head.

    The updates begin at zero, so that the model's output does not change.
    """
    layers = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=TARGETS, bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(layers, model, adapter_name=_ADAPTER)
    for module in model.modules():
        if type(module) is peft.tuners.lora.layer.Linear:
            module.__class__ = _LoraLinear
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(TRAINED_FULLY))
    model.train(model.training)  # the new layers too


def is_added(model: nn.Module) -> bool:
    """Whether the model has low-rank updates that are not merged."""
    return any(isinstance(module, LoraLayer) for module in model.modules())


@torch.no_grad()
def merge(model: EsmForMaskedLM) -> None:
    """Replace each updated matrix W by ``W + alpha / rank * B A`` in place; afterwards the model is a plain one.

    The product is formed in double precision and rounded once.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, LoraLayer):
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


class _LoraLinear(peft.tuners.lora.layer.Linear):
    """peft's layer, keeping less for the backward pass: what dropout made of the input is computed again.

    On a CPU; elsewhere it is peft's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        dropout = self.lora_dropout[_ADAPTER]
        if x.device.type != "cpu" or self.merged or self.disable_adapters:
            return super().forward(x)
        probability = dropout.p if self.training and isinstance(dropout, nn.Dropout) else 0.0
        weights = self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight
        return self.base_layer(x) + _LowRank.apply(x, *weights, self.scaling[_ADAPTER], probability)


class _LowRank(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(context, x: Tensor, a: Tensor, b: Tensor, scaling: float, probability: float) -> Tensor:
        kept, context.rescaling = attention.draw_kept(x, probability) if probability else (None, 1.0)
        context.scaling = scaling
        narrow = functional.linear(_dropped(x, kept, context.rescaling), a)
        context.save_for_backward(x, a, b, kept, narrow)
        return functional.linear(narrow, b) * scaling

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, kept, narrow = context.saved_tensors
        gradient = gradient * context.scaling
        gradient_narrow = gradient @ b
        dropped = _dropped(x, kept, context.rescaling)
        gradient_b = gradient.flatten(0, -2).T @ narrow.flatten(0, -2)
        gradient_a = gradient_narrow.flatten(0, -2).T @ dropped.flatten(0, -2)
        return _dropped(gradient_narrow @ a, kept, context.rescaling), gradient_a, gradient_b, None, None


def _dropped(x: Tensor, kept: Tensor | None, rescaling: float) -> Tensor:
    return x if kept is None else x * kept * rescaling
