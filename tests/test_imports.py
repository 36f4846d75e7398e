"""Imports run one way: no module imports a later package, not even inside a function."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dplm2"
# Packages of the same rank do not import one another.
ORDER = (
    ("core",),
    ("settings", "leftovers"),
    ("resources",),
    ("geometry",),
    ("structures", "training", "viewer"),
    ("cpu",),
    ("tokenizer",),
    ("language",),
    ("generation",),
    ("evaluation",),
    ("report",),
    ("representations", "scoring"),
    ("api",),
    ("stages", "cli"),
    ("shared_start",),
)
RANK = {package: rank for rank, packages in enumerate(ORDER) for package in packages}


def imported(tree: ast.AST) -> set[str]:
    """The modules that a module imports anywhere."""
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


def test_every_package_has_a_rank():
    packages = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert packages - {"__init__", "__main__"} == set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_earlier_packages(path):
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = imported(ast.parse(path.read_text(encoding="utf-8")))
    assert not any(name.split(".")[0] == "snakemake" for name in names)
    others = {name.split(".")[1] for name in names if name.startswith("dplm2.")} - {package}
    assert {other for other in others if RANK.get(other, -1) >= RANK[package]} == set()
