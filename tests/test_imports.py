"""Imports run one way: no module of the package imports one of a later room, not even inside a function."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dplm2"
# Rooms that share a place do not import one another.
ORDER = (
    ("core",),
    ("settings",),
    ("resources",),
    ("geometry",),
    ("structures", "training"),
    ("cpu",),
    ("tokenizer",),
    ("language",),
    ("generation",),
    ("evaluation",),
    ("report",),
    ("scoring",),
    ("stages", "cli"),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def imported(tree: ast.AST) -> set[str]:
    """The modules that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in RANK)


def test_every_room_has_its_place():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__", "__main__"} == set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_earlier_rooms_alone(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = imported(ast.parse(path.read_text(encoding="utf-8")))
    assert not any(name.split(".")[0] == "snakemake" for name in names)
    others = {name.split(".")[1] for name in names if name.startswith("dplm2.")} - {room}
    assert {other for other in others if RANK.get(other, -1) >= RANK[room]} == set()
