"""Command line options shared by all commands with settings, and the section that they select."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dplm2.core.devices import DEVICES
from dplm2.core.errors import ConfigError

# Of options that take files: several after one, and those of an option that is given twice add up.
PATHS: Mapping[str, Any] = {"nargs": "+", "action": "extend", "type": Path}
CONFIG_HELP = "YAML file, or JSON text, of a configuration; several are merged, later ones win"


class Chosen(NamedTuple):
    """Settings of a command: a section of the configuration, its name, and the settings of the whole run."""

    section: Any
    name: str | None
    seed: int
    device: str


def add_settings(parser: argparse.ArgumentParser, kind: str, device: bool = True) -> None:
    """Add ``--config``, ``--name``, ``--set``, ``--seed`` and, for commands that run a network, ``--device``."""
    parser.add_argument("--config", nargs="+", action="extend", metavar="SOURCE", default=[], help=CONFIG_HELP)
    if kind != "evaluation":
        parser.add_argument("--name", help=f"entry of the configuration's section `{kind}` (default: the only one)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"settings that override the configuration; keys as under `{kind}` in config/README.md",
    )
    parser.add_argument("--seed", type=int, help="seed of all random choices (default: the configuration's, else 0)")
    if device:
        parser.add_argument("--device", choices=DEVICES, help="device for networks (default: the configuration's)")


def choose(options: argparse.Namespace, kind: str, **given: Any) -> Chosen:
    """The section ``<kind>.<name>`` selected by the options, with ``--set`` applied.

    Parameters
    ----------
    options
        With the attributes that `add_settings` adds.
    kind
        ``datasets``, ``tokenizers``, ``models``, ``generation`` or ``evaluation``.
    **given
        Values that override the configuration and are overridden by ``--set``. For ``generation`` the key ``task`` also
        restricts the entries.

    Raises
    ------
    ConfigError
        If a value is wrong, or the section is ambiguous.
    """
    from dplm2.settings import loading
    from dplm2.settings.configuration import Configuration

    sources = [loading.read(source) for source in options.config]
    named = named_sections(options, kind)
    changes = loading.merged(given, nested(options.set))
    if kind == "evaluation":
        name, changes = None, {kind: changes}
    else:
        name = _name(options, kind, named, given.get("task"))
        changes = {kind: {name: changes}} if name is not None else {}
    settings = loading.load([*sources, changes])
    if kind == "evaluation":
        section = settings.evaluation
    elif name is not None:
        section = getattr(settings, kind)[name]
    else:
        section = default_section(Configuration, kind).make(**loading.merged(given, nested(options.set)))
    seed = settings.seed if options.seed is None else options.seed
    return Chosen(section, name, seed, getattr(options, "device", None) or settings.device)


def named_sections(options: argparse.Namespace, kind: str) -> Mapping:
    """The entries of a kind in the configuration given by the options, unchecked."""
    from dplm2.settings import loading

    configuration: dict = {}
    for source in options.config:
        configuration = loading.merged(configuration, loading.read(source))
    named = configuration.get(kind)
    return named if isinstance(named, Mapping) else {}


def default_section(configuration: Any, kind: str) -> Any:
    """The model of one entry of a kind."""
    return configuration.model_fields[kind].annotation.__args__[1]


def _name(options: argparse.Namespace, kind: str, named: Mapping, task: str | None) -> str | None:
    fitting = [
        name
        for name, section in named.items()
        if task is None or isinstance(section, Mapping) and section.get("task") == task
    ]
    if options.name is not None and options.config:
        if options.name not in named:
            available = ", ".join(sorted(named)) or "none"
            raise ConfigError(f"--name: {kind} has no {options.name!r}; available: {available}")
        if options.name not in fitting:
            raise ConfigError(f"{kind}.{options.name} has the task {_task_of(named[options.name])}, not {task}")
        return options.name
    if len(fitting) > 1:
        raise ConfigError(f"--name: the section {kind} contains {', '.join(sorted(fitting))}; choose one")
    if named and not fitting:
        available = ", ".join(f"{name} ({_task_of(section)})" for name, section in sorted(named.items()))
        raise ConfigError(f"the configuration's section {kind} has no task {task}; available: {available}")
    return fitting[0] if fitting else None


def _task_of(section: Any) -> Any:
    return section.get("task") if isinstance(section, Mapping) else None


def nested(assignments: list[str]) -> dict[str, Any]:
    """``["training.steps=10"]`` as ``{"training": {"steps": 10}}``; values are YAML.

    Raises
    ------
    ConfigError
        If an assignment has no ``=`` or its value is not YAML.
    """
    from dplm2.settings.loading import parse_value

    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: must be KEY=VALUE, for example samples=10")
        read = parse_value(value, f"--set {text[:200]}")
        place, *parents = reversed(key.strip().split("."))
        inner = values
        for part in reversed(parents):
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {text}: {part} is already given as a value")
        inner[place] = read
    return values
