"""Co-generation: sequence and structure together, given only a length."""

from dplm2.generation.task import GenerationTask
from dplm2.generation.unconditional import CHAINS, unconditional

TASK = GenerationTask(
    meaning="sequence and structure together, given only a length",
    examples="""\
  dplm2 generate co-generation --model results/models/demo --out designs --set lengths=[100,200] samples=10
  dplm2 generate co-generation --model M --out O --config config.yaml --name co-generation""",
    requests=unconditional,
    chains=CHAINS,
)
