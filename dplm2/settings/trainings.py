"""What decides each resumable training: the sections of its entry, by the stage that its state is kept under."""

from typing import Any

from dplm2.settings.fields import Section
from dplm2.settings.roles import deciding

TOKENIZER, SEQUENCE_STAGE, MODEL = "tokenizer", "sequence-stage", "model"
DECIDED_BY = {
    TOKENIZER: ("encoder", "quantizer", "decoder", "loss", "training"),
    SEQUENCE_STAGE: ("network", "warmup"),
    MODEL: ("lora", "diffusion", "training"),
}


def what_decides(entry: Section, stage: str) -> dict[str, Any]:
    """What a tokenizer's or model's entry decides of one of its trainings."""
    sections = ((name, getattr(entry, name)) for name in DECIDED_BY[stage])
    return {name: None if section is None else deciding(section) for name, section in sections}
