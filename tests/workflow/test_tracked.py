"""Each rule tracks, by parameters that Snakemake compares, all that decides its result beside its inputs."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from dplm2.settings import Configuration
from dplm2.settings.fields import Section
from dplm2.settings.roles import meaning_of
from dplm2.stages import STAGES
from tests.workflow.conftest import ROOT

TEXTS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk"))]
RULES = {
    name: block for text in TEXTS for name, block in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE)
}


def sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a type annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from sections_of(inner)


def refers(section: type[Section], reader: str | None, parts: tuple[str, ...] = ()) -> bool:
    """Whether a section has a field that names files, for this reader."""
    for key, info in section.model_fields.items():
        meaning = meaning_of(info)
        is_read = reader is None or meaning.readers is None or reader in meaning.readers
        if not is_read or (parts and key not in parts):
            continue
        nested = list(sections_of(info.annotation))
        if nested:
            if any(refers(inner, reader) for inner in nested):
                return True
        elif meaning.files:
            return True
    return False


def test_every_stage_has_a_rule():
    assert set(STAGES) <= set(RULES)


@pytest.mark.parametrize("rule", STAGES)
def test_the_settings_of_a_stage_are_those_of_its_own_rule(rule):
    """A helper that is called in a rule names this rule."""
    named = re.findall(r'\b(decides|files|operates|note|requested|launcher|PLAN\.\w+)\(\s*"(\w+)"', RULES[rule])
    assert {stage for helper, stage in named if stage in STAGES} == {rule}
    helpers = {helper.removeprefix("PLAN.").replace("deciding", "decides") for helper, _ in named}
    helpers = {{"inputs": "files", "operating": "operates", "to_note": "note"}.get(name, name) for name in helpers}
    assert helpers >= {"decides", "requested"} or rule == "compare_representations"  # there are no settings
    stage = STAGES[rule]
    (entry,) = sections_of(Configuration.model_fields[stage.kind].annotation)
    if refers(entry, stage.reader, stage.parts) and rule not in ("fetch_structures", "clean_structures"):
        assert helpers >= {"files", "note"}


@pytest.mark.parametrize("rule", STAGES)
def test_each_parameter_is_made_by_the_helper_of_its_name(rule):
    for name, helper in re.findall(r"^ +(\w+)=(decides|files|operates|note|launcher)\(", RULES[rule], re.MULTILINE):
        assert name == helper


@pytest.mark.parametrize("rule", STAGES)
def test_a_finished_tokenizer_or_model_is_tracked_by_its_content(rule):
    for kind, name in re.findall(r'weights\("(\w+)", ([\w.\[\]]+)\)', RULES[rule]):
        assert f'PLAN.pretrained("{kind}", {name})' in RULES[rule]
        assert f'finished="{kind}"' in RULES[rule] or f'finished=("{kind}", {name})' in RULES[rule]
