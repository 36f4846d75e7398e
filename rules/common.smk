# The checked configuration, the places where results lie, and what each stage reads of the configuration.
import json
import os
from pathlib import Path

from snakemake.exceptions import WorkflowError

from dplm2 import config as dplm2_config
from dplm2.errors import DPLM2Error
from dplm2.structures.manifest import update_manifest

# The rules run the package of this folder, installed or not.
shell.prefix(f"export PYTHONPATH={workflow.basedir}:${{PYTHONPATH:-}}; set -euo pipefail; ")


def checked_configuration():
    try:
        return dplm2_config.load(config)
    except DPLM2Error as error:
        raise WorkflowError(str(error)) from None


SETTINGS = checked_configuration()
RESULTS = Path(SETTINGS["results"])
STATE = Path(SETTINGS["state"])
LOGS = RESULTS / "logs"
TIMINGS = RESULTS / "timings"
DEVICE = SETTINGS["device"]
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


def stage_config(kind, name, section=None):
    """The part of the configuration that one stage reads, as JSON text: its job runs again only if this changes."""
    section = SETTINGS[kind][name] if section is None else section
    return json.dumps({"seed": SETTINGS["seed"], kind: {name: section}}, sort_keys=True)


def without(section, *keys):
    return {key: value for key, value in section.items() if key not in keys}
