# The checked configuration, the places where results lie, and what each stage reads of the configuration.
import json
import re
import signal
import threading
from pathlib import Path

from snakemake.exceptions import WorkflowError

from dplm2 import config as dplm2_config
from dplm2.errors import DPLM2Error
from dplm2.structures.manifest import update_manifest
from dplm2.structures.settings import SELECTION_FILTERS
from dplm2.structures.targets import Source, update_lists
from dplm2.tokenizer.settings import DecoderSettings, QuantizerSettings
from dplm2.training.settings import TrainingSettings

# The rules run the package of this folder, installed or not. A signal to all of a job's processes (the queue takes it
# away) is for Python to answer: the shell waits for it and passes its exit status on, and tee writes down what it says.
shell.prefix(
    "set -euo pipefail; export PYTHONPATH=" + str(workflow.basedir) + ":${{PYTHONPATH:-}}; "
    "trap : TERM USR1; tee() {{ trap '' INT TERM USR1; exec tee \"$@\"; }}; "
)
if threading.current_thread() is threading.main_thread():
    # Snakemake itself lets running jobs finish after SIGTERM, but would die of this one.
    signal.signal(signal.SIGUSR1, lambda number, frame: None)


def checked_configuration():
    try:
        configuration = dplm2_config.load(config)
        problems = [*training_problems(configuration), *tokenizer_problems(configuration)]
    except DPLM2Error as error:
        raise WorkflowError(str(error)) from None
    if problems:
        raise WorkflowError("the configuration is wrong:\n  " + "\n  ".join(problems))
    return configuration


def training_problems(configuration):
    """What contradicts itself in the training sections, so that it is told now and not hours into the run."""
    for kind in ("tokenizers", "models"):
        for name, section in configuration[kind].items():
            trainings = {"training": section["training"]}
            if kind == "models":
                trainings["warmup.sequence_training"] = section["warmup"]["sequence_training"]
            for place, training in trainings.items():
                for problem in dplm2_config.build(TrainingSettings, training).problems():
                    yield f"{kind}.{name}.{place.removesuffix('training')}{problem}"


def tokenizer_problems(configuration):
    """What contradicts itself in the quantizers and decoders."""
    for name, section in configuration["tokenizers"].items():
        for part, settings in {"quantizer": QuantizerSettings, "decoder": DecoderSettings}.items():
            try:
                dplm2_config.build(settings, section[part])
            except DPLM2Error as error:
                yield f"tokenizers.{name}.{error}"


SETTINGS = checked_configuration()
RESULTS = Path(SETTINGS["results"])
STATE = Path(SETTINGS["state"])
LOGS = RESULTS / "logs"
TIMINGS = RESULTS / "timings"
# Where a job runs and where it keeps its progress do not decide its result: resources, not params, so that changing
# them runs nothing again.
DEVICE = SETTINGS["device"]
THREADS = SETTINGS["threads"]
GPUS = 1 if DEVICE in ("cuda", "mps") else 0

DATASETS = list(SETTINGS["datasets"])
TOKENIZERS = list(SETTINGS["tokenizers"])
MODELS = list(SETTINGS["models"])
TASKS = list(SETTINGS["generation"])


wildcard_constraints:
    dataset="[A-Za-z0-9][A-Za-z0-9._-]*",
    tokenizer="[A-Za-z0-9][A-Za-z0-9._-]*",
    model="[A-Za-z0-9][A-Za-z0-9._-]*",
    task="[A-Za-z0-9][A-Za-z0-9._-]*",
    shard="[0-9]{5}",
    variant="trained|untrained",


def trained_here(kind):
    """A pattern of the names that are trained in this run: a finished one may lie where this run would put it."""
    names = [name for name, section in SETTINGS[kind].items() if "pretrained" not in section]
    return "|".join(map(re.escape, names)) or "(?!)"


def stage_config(kind, name, section=None):
    """The part of the configuration that one stage reads, as JSON text: its job runs again only if this changes."""
    section = SETTINGS[kind][name] if section is None else section
    return json.dumps({"seed": SETTINGS["seed"], kind: {name: section}}, sort_keys=True)


def without(section, *keys):
    return {key: value for key, value in section.items() if key not in keys}


def is_fetched(dataset):
    return SETTINGS["datasets"][dataset]["fetch"] is not None


def update_shards(dataset):
    """The names of a dataset's shards, after their manifests, or lists of what to fetch, were brought up to date."""
    section, folder = SETTINGS["datasets"][dataset], STATE / "manifests" / dataset
    shards = section["shards"]
    if workflow.is_main_process:  # a job of this run finds them as they are
        try:
            if is_fetched(dataset):
                source = dplm2_config.build(Source, without(section["fetch"], "list", "allow_missing"))
                update_lists(section["fetch"]["list"], folder, shards, source)
            else:
                update_manifest(section["files"], folder, shards)
        except DPLM2Error as error:
            raise WorkflowError(f"datasets.{dataset}.{'fetch' if is_fetched(dataset) else 'files'}: {error}") from None
    return [f"{shard:05d}" for shard in range(shards)]


SHARDS = {dataset: update_shards(dataset) for dataset in DATASETS}


def shard_manifest(dataset, shard):
    """The manifest of a shard: written when the workflow starts, or by the job that fetches the files."""
    folder = RESULTS / "downloads" if is_fetched(dataset) else STATE / "manifests"
    return folder / dataset / f"part-{shard}.tsv"


def patience(dataset):
    """How files are asked for, which does not decide what they are."""
    fetch = SETTINGS["datasets"][dataset]["fetch"]
    options = [
        f"--{key.replace('_', '-')} {fetch[key]}"
        for key in ("concurrency", "tries", "first_wait", "timeout", "max_megabytes")
    ]
    return " ".join(options + ["--allow-missing"] * fetch["allow_missing"])


def selection_section(dataset):
    """A dataset's settings less those that say where files come from: what is in a shard stands in its manifest."""
    return {**without(SETTINGS["datasets"][dataset], "shards", "fetch"), "files": "as in the manifests"}


def cleaning_section(dataset):
    """A dataset's settings less those that only the choice among all chains reads."""
    section = without(selection_section(dataset), "split", "clusters")
    return {**section, "filters": without(section["filters"], *SELECTION_FILTERS)}


def chains(datasets):
    """The chains of datasets and the selections that say which of them stay."""
    parts = [
        RESULTS / f"structures/{dataset}/part-{shard}.parquet" for dataset in datasets for shard in SHARDS[dataset]
    ]
    return parts + selections(datasets)


def selections(datasets):
    return [RESULTS / f"structures/{dataset}/selection.parquet" for dataset in datasets]


def structure_folders(datasets):
    return [str(RESULTS / "structures" / dataset) for dataset in datasets]


def tokenizer_folder(name):
    """Where a tokenizer lies: in the results, or where the configuration says that a finished one is."""
    return Path(SETTINGS["tokenizers"][name].get("pretrained", RESULTS / "tokenizers" / name))


def tokenizer_weights(name):
    return tokenizer_folder(name) / "model.safetensors"


def initial_tokenizer(name):
    """The weights that the training of a tokenizer starts from, if they are not random; maybe of this run."""
    initial = SETTINGS["tokenizers"][name]["initial"]
    return Path(initial) / "model.safetensors" if initial else []


def tokens_of(tokenizer, datasets):
    return [
        RESULTS / f"tokens/{tokenizer}/{dataset}/part-{shard}.parquet"
        for dataset in datasets
        for shard in SHARDS[dataset]
    ]


def token_folders(tokenizer, datasets):
    return [str(RESULTS / "tokens" / tokenizer / dataset) for dataset in datasets]


def all_tokens():
    models = SETTINGS["models"].values()
    return sorted({part for model in models for part in tokens_of(model["tokenizer"], model.get("datasets", []))})


def source_model(name):
    """The weights of the model of this configuration that a model starts from, if it names one."""
    source = SETTINGS["models"][name].get("warmup", {}).get("model")
    return model_weights(source) if source else []


def warmup_files(name):
    """The user's own files that a warm-up reads: sequences, and the model that it starts from if that is at hand."""
    warmup = SETTINGS["models"][name]["warmup"]
    source = Path(warmup["source"])
    if warmup["source"] == "scratch":
        weights = []
    elif source.suffix == ".pt":
        weights = [source]
    else:
        weights = sorted(file for file in source.glob("*") if file.suffix in (".safetensors", ".bin"))
        weights += [source / "config.json"] if weights else []
    return [*warmup["sequence_files"], *weights]


def model_tokens(name):
    model = SETTINGS["models"][name]
    return tokens_of(model["tokenizer"], model["datasets"]) + selections(model["datasets"])


def model_token_folders(name):
    model = SETTINGS["models"][name]
    return token_folders(model["tokenizer"], model["datasets"])


def model_folder(name):
    """Where a model lies: in the results, or where the configuration says that a finished one is."""
    return Path(SETTINGS["models"][name].get("pretrained", RESULTS / "models" / name))


def model_weights(name):
    return model_folder(name) / "model.safetensors"


def initial_weights(name):
    """The model after warm-up, before training; none of a model that was not trained here."""
    return [] if "pretrained" in SETTINGS["models"][name] else RESULTS / "models" / name / "initial/model.safetensors"


def task_dataset(task):
    return SETTINGS["generation"][task].get("dataset")


def task_problems(task):
    """The problems of a task, and the structure files that they take their motifs from."""
    section = SETTINGS["generation"][task]
    problems = section.get("problems") or []
    if section["task"] != "scaffolding" or not problems:
        return problems
    from dplm2.generation.contigs import reference_files

    try:
        return problems + reference_files(problems, section.get("references"))
    except DPLM2Error as error:
        raise WorkflowError(f"generation.{task}.problems: {error}") from None


def all_samples():
    return expand(rules.generate.output.samples, model=MODELS, task=TASKS)


def evaluation_config(*keys):
    """The evaluation section, or those of its keys that a stage reads."""
    section = without(SETTINGS["evaluation"], "reconstruction", "likelihood")
    if keys:
        section = {key: section[key] for key in keys}
    return json.dumps({"seed": SETTINGS["seed"], "evaluation": section}, sort_keys=True)


def split_option(dataset, trained_on):
    return "--split train" if dataset in trained_on else ""


def needs_natives(task):
    return SETTINGS["generation"][task]["task"] in ("folding", "inverse-folding")


def evaluated_tasks():
    # Infilled proteins have no metric of their own.
    return [task for task in TASKS if SETTINGS["generation"][task]["task"] != "infilling"]


def all_evaluations():
    return (
        expand(
            rules.evaluate_tokenizer.output.summary,
            tokenizer=TOKENIZERS,
            dataset=SETTINGS["evaluation"]["reconstruction"],
            variant=["trained", "untrained"],
        )
        + expand(rules.evaluate_likelihood.output.summary, model=MODELS, dataset=SETTINGS["evaluation"]["likelihood"])
        + expand(rules.evaluate_samples.output.summary, model=MODELS, task=evaluated_tasks())
    )


def published_models():
    """The published model that figures stand beside, or one for each model, as the command line wants them."""
    model = SETTINGS["report"]["published_model"]
    return [f"{ours}={theirs}" for ours, theirs in model.items()] if isinstance(model, dict) else [model]
