"""Generation tasks, one module each."""

from dplm2.generation.task import GenerationTask
from dplm2.generation.tasks import (
    backbone,
    co_generation,
    folding,
    infilling,
    inverse_folding,
    scaffolding,
    sequence,
)
from dplm2.settings.generation import TaskName

TASKS: dict[TaskName, GenerationTask] = {
    "co-generation": co_generation.TASK,
    "sequence": sequence.TASK,
    "backbone": backbone.TASK,
    "folding": folding.TASK,
    "inverse-folding": inverse_folding.TASK,
    "scaffolding": scaffolding.TASK,
    "infilling": infilling.TASK,
}
