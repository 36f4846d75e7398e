"""Backbone generation, given only a length."""

from dplm2.generation.task import GenerationTask
from dplm2.generation.unconditional import CHAINS, unconditional

TASK = GenerationTask(
    meaning="only backbones",
    examples="""\
  dplm2 generate backbone --model M --out backbones --set 'lengths={minimum: 80, maximum: 200}' samples=50""",
    requests=unconditional,
    chains=CHAINS,
)
