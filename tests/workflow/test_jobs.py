"""Resources and outputs of each job of a new run, from Snakemake's dry run."""

import re
from collections import defaultdict

import pytest

from dplm2.core.errors import ConfigError
from dplm2.resources import MINUTES, ON_NETWORKS, needs
from dplm2.settings import load
from dplm2.stages import STAGES, refuse_storage_provider
from tests.workflow.conftest import Workdir

pytestmark = [pytest.mark.workflow]

MODEL = ("generate", "evaluate_likelihood", "evaluate_samples", "probe_representations", "score_proteingym")
TOKENIZER = ("evaluate_tokenizer",)
# Sections whose sizes determine a job's memory, if not those of its stage.
SIZED_BY = dict.fromkeys(MODEL, "model") | dict.fromkeys(TOKENIZER, "tokenizer")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Workdir:
    workdir = Workdir(tmp_path_factory.mktemp("jobs"))
    workdir.configuration |= {"device": "auto", "threads": 3}
    return workdir


@pytest.fixture(scope="module")
def jobs(workdir) -> dict[str, list[dict[str, str]]]:
    """Properties of each job by rule: ``threads``, ``resources``, ``output`` and so on."""
    done = workdir.snakemake("--dry-run", "--printshellcmds", "--cores", "8", "--workflow-profile", "none")
    assert done.returncode == 0, done.stdout + done.stderr
    found, job = defaultdict(list), {}
    for line in (done.stdout + done.stderr).splitlines():
        if start := re.match(r"(?:local)?rule (\w+):$", line):
            job = {}
            found[start[1]].append(job)
        elif field := re.match(r"    (\w+): (.*)$", line) or re.match("(Shell command): (.*)$", line):
            job[field[1]] = field[2]
    return found


def test_every_stage_has_a_job(jobs):
    assert set(jobs) - {"all"} == set(STAGES) - {"fetch_structures"}


def test_jobs_request_memory_time_and_gpus_of_their_stage(jobs, workdir):
    settings = load([workdir.configuration], [workdir.folder])
    for rule in set(jobs) - {"all"}:
        kind = SIZED_BY.get(rule, STAGES[rule].kind.removesuffix("s"))
        for job in jobs[rule]:
            asked = dict(each.split("=") for each in job["resources"].split(", ") if "=" in each)
            named = dict(each.split("=") for each in job.get("wildcards", "").split(", ") if each)
            need = needs(settings, rule, named.get(kind))
            assert int(asked["mem_mb"]) == need.memory_mb, rule
            assert int(asked["runtime"]) == MINUTES[rule], rule
            assert int(asked.get("gpu", 0)) == need.gpus == (rule in ON_NETWORKS), rule
            assert ("shards" in asked) == ("shard" in named), rule  # profiles limit how many run at once


def test_computing_jobs_use_the_configured_threads(jobs):
    threads = {rule: {int(job.get("threads", 1)) for job in of_rule} for rule, of_rule in jobs.items()}
    assert {rule for rule, counts in threads.items() if counts == {3}} == ON_NETWORKS
    assert threads["clean_structures"] == threads["report"] == {1} and threads["select_structures"] == {2}


def test_every_job_has_a_complete_command(jobs):
    """In a dry run Snakemake leaves what the rule does not define as it is."""
    for rule in set(jobs) - {"all"}:
        for job in jobs[rule]:
            assert not re.search(r"\{(params|input|output|wildcards|threads|log)\b", job["Shell command"]), rule


def test_every_job_has_its_own_log(jobs):
    logs = [job["log"] for rule in set(jobs) - {"all"} for job in jobs[rule]]
    assert len(set(logs)) == len(logs)


def test_storage_provider_is_refused():
    """Snakemake knows a provider only if its plugin is installed, hence without it."""
    with pytest.raises(ConfigError, match=r"^--default-storage-provider s3: [^\n]*Object storage\)$"):
        refuse_storage_provider("s3")
    refuse_storage_provider(None)
