"""`--help` explains every command, argument and choice."""

import argparse
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from dplm2.cli import build_parser
from dplm2.settings.evaluation import EvaluationSettings


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """All commands of a parser, at any depth."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands(command)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, made anew."""
    return {command.prog: command for command in commands(build_parser())}


NAMES = {name: parser.get_default("run") is not None for name, parser in parsers().items()}


@pytest.mark.parametrize("command", NAMES)
def test_every_argument_is_explained(command):
    for action in parsers()[command]._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert set(action.choices) == {choice.dest for choice in action._choices_actions if choice.help}
        else:
            assert action.help, action


@pytest.mark.parametrize("command", [name for name, runs in NAMES.items() if runs])
def test_every_command_begins_with_what_it_does(command):
    assert re.match(r"[A-Z][^:]+[.:,] ?", parsers()[command].description.lstrip())


def test_places_and_formats_of_what_is_written_are_required():
    """Nothing is written to a place that nobody has named."""
    for command, parser in parsers().items():
        for action in parser._actions:
            if "--out" in action.option_strings or (command, action.dest) == ("dplm2 export", "format"):
                assert action.required, (command, action)


@pytest.mark.parametrize("command", [name for name in NAMES if name.endswith(("design", "designs"))])
def test_programs_to_fold_with_are_those_of_the_configuration(command):
    (fold,) = (action for action in parsers()[command]._actions if "--fold" in action.option_strings)
    assert set(fold.choices) == values_of(EvaluationSettings.model_fields["folding_backend"].annotation)


def values_of(annotation: Any) -> set[str]:
    """The strings of a (possibly optional) literal type."""
    inner = get_args(annotation)
    return {annotation} if isinstance(annotation, str) else {value for each in inner for value in values_of(each)}
