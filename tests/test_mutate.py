"""The tool for mutation testing: each mutation changes the meaning of one place, and nothing else."""

import ast

import pytest

from tests.mutate import ROOT, nearest
from tests.mutations import mutations

SOURCE = b'''"""Text."""


def share(a: int, b: int = 2) -> float:
    if a < b and not a:
        raise ValueError(f"{a + b}")
    log.info("at %d", a + 1)
    a.kept = round(a, digits=b)
    return a / b
'''


def test_mutations_of_a_small_function():
    found = {(each.line, each.before, each.after) for each in mutations("share.py", SOURCE)}
    assert found == {
        (4, "2", "(3)"),
        (4, "2", "(1)"),
        (5, "a < b and not a", "(not (a < b and (not a)))"),
        (5, "a < b and not a", "(a < b or not a)"),
        (5, "a < b", "(a <= b)"),
        (5, "a < b", "(a >= b)"),
        (5, "not a", "(a)"),
        (6, 'raise ValueError(f"{a + b}")', "pass"),
        (8, "a.kept = round(a, digits=b)", "pass"),
        (8, "round(a, digits=b)", "(round(a))"),
        (9, "a / b", "(a * b)"),
    }


def test_mutations_of_a_rule():
    rule = b"""rule a:
    input:
        files,
    threads: 2
    params:
        decides=decides("a", "task"),
        out=subpath(
            output[0], parent=True),
"""
    assert {(each.line, each.after.strip()) for each in mutations("a.smk", rule)} == {
        (4, "threads: 3"),
        (6, ""),
        (6, 'decides=operates("a", "task"),'),
    }


@pytest.mark.parametrize("path", ["dplm2/geometry/tm_score.py", "dplm2/training/run.py"])
def test_every_mutation_is_valid_and_different_code(path):
    source = (ROOT / path).read_bytes()
    sound, found = ast.dump(ast.parse(source)), mutations(path, source)
    assert len(found) > 200
    for fault in found[::7]:
        assert ast.dump(ast.parse(fault.applied(source))) != sound, fault


def test_nearest_tests_import_the_module():
    assert "tests/evaluation/test_structure_metrics.py" in nearest("dplm2/geometry/tm_score.py", False)
    assert "tests/geometry/test_frames.py" not in nearest("dplm2/geometry/tm_score.py", False)
    assert "tests/geometry/test_frames.py" in nearest("dplm2/geometry/tm_score.py", True)
