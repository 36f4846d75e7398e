# The plan of this run (dplm2/stages.py), and helper functions for the rules.
import os
import shlex
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from dplm2.core.signals import let_jobs_stop_first
from dplm2.core.errors import DPLM2Error
from dplm2.leftovers import end_leftover_jobs
from dplm2.resources import REQUESTED, profile_resources
from dplm2.shared_start import NEVER, ONLY_SHARDS, OWNER
from dplm2.stages import Plan, Untold, folders_of, option, refuse_storage_provider

let_jobs_stop_first()
# Commands share a start of Python in a process that ends with this one; of a cluster's jobs, those of shards.
if OWNER not in os.environ or workflow.remote_exec and os.environ[OWNER] != NEVER:
    os.environ[OWNER] = f"{os.getpid()}{ONLY_SHARDS if workflow.remote_exec else ''}"
FOLDER, IS_MAIN = Path(workflow.current_basedir).parent, workflow.modifier.is_main_snakefile()
try:
    refuse_storage_provider(workflow.storage_settings.default_storage_provider)
    PLAN = Plan(config, workflow.configfiles)
except DPLM2Error as error:
    raise WorkflowError(str(error)) from None
SETTINGS, LAYOUT = PLAN.settings, PLAN.layout
RESULTS = LAYOUT.results
LOGS = RESULTS / "logs"
DATASETS, TOKENIZERS, MODELS = map(list, (SETTINGS.datasets, SETTINGS.tokenizers, SETTINGS.models))
TASKS = list(SETTINGS.generation)
# There is no metric for infilled proteins.
MEASURED_TASKS = [task for task in TASKS if SETTINGS.generation[task].task != "infilling"]
PROFILE = profile_resources(workflow.resource_settings.default_resources)
CACHED = workflow.workflow_settings.cache is not None
IN_A_JOB = workflow.remote_exec
SHARDS = {name: [f"{shard:05d}" for shard in range(PLAN.shards[name])] for name in DATASETS}


@cache
def prepare():
    try:
        # With --nolock, another Snakemake may run here; of a module's jobs, which are submitted already is unknown.
        if IS_MAIN and workflow.execution_settings.lock:
            end_leftover_jobs(Path.cwd(), say=logger.info)
        PLAN.check_inputs()
        PLAN.write_manifests()
    except DPLM2Error as error:
        raise WorkflowError(str(error)) from None


onstart:
    prepare()


wildcard_constraints:
    dataset="[A-Za-z0-9][A-Za-z0-9._-]*",
    tokenizer="[A-Za-z0-9][A-Za-z0-9._-]*",
    model="[A-Za-z0-9][A-Za-z0-9._-]*",
    task="[A-Za-z0-9][A-Za-z0-9._-]*",
    shard="[0-9]{5}",
    variant="trained|untrained",


# Snakemake records the first two: the job is repeated if one changes.
def decides(rule, wildcard=None):
    return lambda wildcards: PLAN.deciding(rule, wildcard and getattr(wildcards, wildcard))


def files(rule, wildcard=None):
    return lambda wildcards: PLAN.inputs(rule, wildcard and getattr(wildcards, wildcard))


def operates(rule, wildcard=None):
    # A function of `threads` is not recorded.
    return lambda wildcards, threads: Untold(PLAN.operating(rule, wildcard and getattr(wildcards, wildcard)))


def note(rule, wildcard=None, finished=None):
    # `finished`: the kind of input (tokenizer or model) that may come from outside this run.
    def option_of(wildcards, threads):
        name = wildcard and getattr(wildcards, wildcard)
        origin = finished and (finished, getattr(wildcards, finished[:-1]))
        return Untold(option("--note", PLAN.to_note(rule, name, finished=origin)))

    return option_of


def requested(rule, wildcard=None):
    def asked(wildcards, attempt):
        return PLAN.requested(rule, wildcard and getattr(wildcards, wildcard), attempt, PROFILE)

    return {key: lambda wildcards, attempt, key=key: asked(wildcards, attempt)[key] for key in REQUESTED}


def this_package(wildcards, threads):
    """Rules run the package of this folder, installed or not; exec lets signals reach it."""
    if not IS_MAIN and not workflow.dryrun:
        prepare()  # Snakemake ignores onstart in a module of another workflow
    return Untold(f'exec env PYTHONPATH={shlex.quote(str(FOLDER))}"${{PYTHONPATH:+:$PYTHONPATH}}"')


def launcher(rule, wildcard):
    return lambda wildcards, threads: Untold(shlex.join(PLAN.launcher(rule, getattr(wildcards, wildcard))))


def state_folder(wildcards, threads):
    return Untold(str(LAYOUT.state))


def grouped(name):
    """Shards share a job of the cluster where the profile says so; the Snakemake of that job runs them itself."""
    return None if IN_A_JOB else lambda wildcards: name if name in workflow.group_settings.group_components else None


def chains(datasets):
    return LAYOUT.chains(datasets, PLAN.shards)


def tokens(tokenizer, datasets):
    return [part for name in datasets for part in LAYOUT.parts(LAYOUT.tokens(tokenizer, name), PLAN.shards[name])]


def selections(datasets):
    return [str(LAYOUT.structures(name) / "selection.parquet") for name in datasets]


def model_tokens(name):
    model = SETTINGS.models[name]
    return tokens(model.tokenizer, model.datasets) + selections(model.datasets)


def weights(kind, name):
    """The weights that are made in this run; none for a pretrained tokenizer or model."""
    pretrained = getattr(SETTINGS, kind)[name].pretrained
    return (PLAN.made_here(pretrained) or []) if pretrained else RESULTS / kind / name / "model.safetensors"


def folder(kind, name):
    return getattr(SETTINGS, kind)[name].pretrained or str(RESULTS / kind / name)


def made(rule, **names):
    """Every output of a rule, so that a deleted one is regenerated."""
    return expand(list(rule.output), **names)
