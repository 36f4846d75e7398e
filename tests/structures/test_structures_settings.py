"""Settings and their schema say the same."""

import dataclasses
import typing

from dplm2 import config
from dplm2.structures import settings as module


def test_fields_are_the_schemas_keys_at_every_depth():
    def compare(kind, schema):
        assert {field.name for field in dataclasses.fields(kind)} == set(schema["properties"])
        for name, hint in typing.get_type_hints(kind).items():
            if dataclasses.is_dataclass(hint):
                compare(hint, schema["properties"][name])

    compare(module.DatasetSettings, config.schema("dataset"))


def test_every_key_is_described_and_has_a_default_unless_required():
    def check(node, required):
        for name, child in node["properties"].items():
            assert child.get("description"), name
            assert ("default" in child) != (name in required), name
            if "properties" in child:
                check(child, child.get("required", ()))

    check(config.schema("dataset"), ())


def test_only_files_is_required_and_mistakes_are_named():
    assert list(config.problems_of({"files": "x"}, "dataset")) == []
    problems = list(config.problems_of({"files": 3, "filters": {"max_coil": 2}, "split": {"by": "fold"}}, "dataset"))
    assert len(problems) == 3
    assert any("filters.max_coil" in problem for problem in problems)


def test_the_papers_filters_can_be_written_down():
    paper = {"max_length": 512, "min_plddt": 85, "max_plddt_deviation": 15, "trim_plddt": 50, "max_coil": 0.5}
    paper.update(radius_of_gyration_quantile=0.96, monomers_only=True, one_per_cluster=True)
    given = {"files": "x", "filters": paper, "clusters": {"source": "mmseqs2"}}
    assert list(config.problems_of(given, "dataset")) == []
    assert config.build(module.DatasetSettings, config.complete(given, "dataset")).filters.min_plddt == 85
