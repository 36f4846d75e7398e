"""Sequence generation, given only a length."""

from dplm2.generation.task import GenerationTask
from dplm2.generation.unconditional import CHAINS, unconditional

TASK = GenerationTask(
    meaning="only sequences",
    examples="""\
  dplm2 generate sequence --model results/models/demo --out sequences --set lengths=[100] samples=10""",
    requests=unconditional,
    chains=CHAINS,
)
