"""docs/outputs.md describes every file that a run writes and every column of its tables, and nothing else."""

import csv
import json
import re
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
import pytest

from dplm2.evaluation.metrics.registry import declared
from dplm2.evaluation.results import SUMMARY_COLUMNS
from dplm2.generation.samples import SAMPLES
from dplm2.structures.store import CHAINS, REJECTED, SELECTION
from dplm2.tokenizer.tokens import SCHEMA
from tests.documentation import text_of

SCHEMAS = {
    "structures/*/part-*.parquet": CHAINS,
    "structures/*/selection.parquet": SELECTION,
    "structures/*/rejected.parquet": REJECTED,
    "tokens/*/*/part-*.parquet": SCHEMA,
    "samples/*/*/samples.parquet": SAMPLES,
}
# Tables with the columns of other tables, which the page names without listing these.
COMBINED = ("report/tables/*", "representations/comparison/table.csv")
METRICS = "metrics"
GROUPS = "evaluation/**/groups.csv"  # not written for so few samples


def documented() -> dict[str, set[str]]:
    """Patterns of files with the columns of their tables; `METRICS` stands for any declared metric."""
    found = {}
    for section in re.split(r"^### ", text_of("docs/outputs.md"), flags=re.MULTILINE)[1:]:
        heading, body = section.split("\n", 1)
        body = re.split(r"^## ", body, flags=re.MULTILINE)[0]
        cells = re.findall(r"^\| ([^|]+?) \|", body, flags=re.MULTILINE)
        names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
        found[re.sub(r"<\w+>", "*", heading.strip("`"))] = names | ({METRICS} & set(cells))
    return found


PAGE = documented()


def pattern_of(path: PurePosixPath) -> str:
    """The pattern of a file: the most specific of those that fit."""
    text = path.as_posix()
    fitting = [pattern for pattern in PAGE if fits(text, pattern)]
    assert fitting, f"{text}: not in docs/outputs.md"
    return max(fitting, key=lambda pattern: len(pattern.replace("*", "")))


def fits(path: str, pattern: str) -> bool:
    """``**`` stands for any number of folders, ``*`` for one or a part of a name."""
    deep = "**" in pattern
    return fnmatch(path, pattern.replace("**/", "*")) and (deep or path.count("/") == pattern.count("/"))


def columns_of(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return pq.read_schema(path).names
    with path.open(newline="") as stream:
        return next(csv.reader(stream))


@pytest.fixture(scope="module")
def files(finished):
    results = finished.folder / "results"
    hidden = [path for path in results.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {PurePosixPath(path.relative_to(results).as_posix()): path for path in hidden}


@pytest.mark.workflow
def test_every_file_is_described(files):
    assert {pattern_of(path) for path in files} | {GROUPS} == set(PAGE)


@pytest.mark.workflow
def test_every_column_is_described(files):
    unknown = []
    for path, file in files.items():
        pattern = pattern_of(path)
        if file.suffix in (".csv", ".parquet") and pattern not in COMBINED:
            unknown += [f"{path}: {name}" for name in columns_of(file) if not is_described(name, PAGE[pattern])]
    assert unknown == []


def is_described(column: str, names: set[str]) -> bool:
    if column in names or (METRICS in names and declared(column) is not None):
        return True
    prefix, _, metric = column.partition("_")
    return f"{prefix}_*" in names and declared(metric) is not None


@pytest.mark.workflow
def test_tables_of_the_report_are_named(files):
    text = text_of("docs/outputs.md")
    names = {path.stem for path in files if path.parent.as_posix() == "report/tables"}
    assert {name for name in names if f"`{re.sub('^samples-.*', 'samples-<task>', name)}`" not in text} == set()


@pytest.mark.workflow
def test_every_described_column_is_written(files):
    written: dict[str, set[str]] = {}
    for path, file in files.items():
        if file.suffix in (".csv", ".parquet"):
            written.setdefault(pattern_of(path), set()).update(columns_of(file))
    for pattern, columns in written.items():
        assert {name for name in PAGE[pattern] - columns if not name.endswith("_*")} <= {METRICS}, pattern


def test_columns_of_summaries_are_those_that_are_written():
    assert PAGE["evaluation/**/summary.csv"] == set(SUMMARY_COLUMNS)
    assert PAGE[GROUPS] == {"group", *SUMMARY_COLUMNS}


@pytest.mark.parametrize("pattern", SCHEMAS)
def test_columns_are_those_of_the_schema(pattern):
    assert PAGE[pattern] == set(SCHEMAS[pattern].names)


@pytest.mark.workflow
def test_run_records_have_the_described_keys(files):
    records = {path: json.loads(file.read_text()) for path, file in files.items() if path.name == "run.json"}
    assert records and all(PAGE["**/run.json"] <= set(record) for record in records.values())
