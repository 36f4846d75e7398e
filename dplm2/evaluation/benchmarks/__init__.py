"""Benchmarks, one module per task; `job` is shared by those of samples."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dplm2.evaluation.benchmarks.job import Job


def run_job(job: "Job") -> int:
    """Run the benchmark of a set of samples; returns the exit status."""
    from dplm2.evaluation.benchmarks import folding, inverse_folding, scaffolding, unconditional

    modules = {"folding": folding, "inverse-folding": inverse_folding, "scaffolding": scaffolding}
    return modules.get(job.task, unconditional).run(job)
