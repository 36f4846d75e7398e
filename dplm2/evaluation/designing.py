"""From a task to ranked designs in one folder: the stages generate, evaluate and rank, one after the other.

A stage whose results are complete and were made with the same settings and inputs is not run again; an interrupted one
resumes with the samples or predictions that it had finished.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dplm2.core.errors import ConfigError
from dplm2.evaluation.benchmarks import run_job
from dplm2.evaluation.benchmarks.job import Job
from dplm2.evaluation.designs import rank_designs, summary_of
from dplm2.generation.run import generate_folder
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.settings.generation import GenerationSettings, TaskName
from dplm2.settings.roles import fields_read

SAMPLES, EVALUATION, STATE = "samples", "evaluation", "state"


@dataclass(frozen=True)
class DesignJob:
    """What is designed, with what, and where.

    Attributes
    ----------
    out
        Folder for ``designs.csv``, ``designs.fasta`` and ``best/``, with ``samples/``, ``evaluation/`` and ``state/``.
    model, tokenizer
        Folders or hub ids; the tokenizer is the model's by default.
    generation, evaluation
        Settings of the stages.
    chains
        Inputs of the task.
    seed, device
        Of networks.
    model_name
        In the tables; the folder's name by default.
    """

    out: Path
    model: str
    generation: GenerationSettings
    evaluation: EvaluationSettings
    chains: Sequence[Path] = ()
    tokenizer: str | None = None
    seed: int = 0
    device: str = "cpu"
    model_name: str | None = None


def design(job: DesignJob) -> int:
    """Generate, filter, fold, score and rank; returns the exit status.

    Raises
    ------
    ConfigError
        If the settings do not lead to ranked designs; nothing has run.
    DPLM2Error
        If an input cannot be used, or no design is left.
    Preempted
        If the process was asked to stop; what was finished is kept.
    """
    check(job.generation.task, job.evaluation)
    generate_folder(
        job.model,
        job.out / SAMPLES,
        job.generation,
        seed=job.seed,
        chains=job.chains,
        tokenizer=job.tokenizer,
        model_name=job.model_name,
        device=job.device,
        keep_finished=True,
    )
    evaluation = Job(
        task=job.generation.task,
        samples=job.out / SAMPLES,
        out=job.out / EVALUATION,
        settings=job.evaluation,
        chains=tuple(job.chains) if job.generation.task == "inverse-folding" else (),
        model=job.model,
        tokenizer=job.tokenizer,
        state=job.out / STATE,
        seed=job.seed,
        device=job.device,
    )
    return evaluated_and_ranked(evaluation, job.out)


def evaluated_and_ranked(evaluation: Job, out: Path) -> int:
    """Evaluate samples unless that is done, and rank them in ``out``; returns the exit status."""
    if evaluation.is_finished():
        print(f"evaluation: {evaluation.out} (finished already)")
    elif status := run_job(evaluation):
        return status
    ranking = rank_designs(evaluation.samples, evaluation.out, out, evaluation.settings.ranking)
    print(summary_of(ranking, out, evaluation.settings.ranking))
    return 0


def check(task: TaskName, evaluation: EvaluationSettings) -> None:
    """Refuse settings without effect on the task.

    Raises
    ------
    ConfigError
        Names them.
    """
    read = {key for key, *_ in fields_read(evaluation.filters, task)}
    for key in type(evaluation.filters).model_fields:
        if evaluation.filters.differs(key) and key not in read:
            raise ConfigError(f"evaluation.filters.{key}: has no effect on {task}")
    if task == "backbone" and evaluation.inverse_folding_backend == "none":
        raise ConfigError("evaluation.inverse_folding_backend: backbones have no sequence; choose self or proteinmpnn")


def needs_likelihood(evaluation: EvaluationSettings) -> bool:
    """Whether a filter or the ranking reads the log-likelihood of samples."""
    ranking = evaluation.ranking
    named = {*(ranking.weights or {}), *ranking.at_least, *ranking.at_most}
    return evaluation.filters.min_log_likelihood is not None or "log_likelihood" in named
