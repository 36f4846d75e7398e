"""Mutation testing: do tests detect random faults?

    python -m tests.mutate dplm2/geometry dplm2/training/optimizer.py --number 100

Draws mutations (`tests.mutations`) with a fixed seed, applies each to a private copy of the repository, and runs the
nearest tests there: the tests that run the changed line, in test files that import a changed module; for a file of
rules, the tests of the workflow (minutes per mutation). A mutation that fails no test survives: either a test is
missing, or the change has no effect. The working tree is never changed. With `--again`, the survivors in the output are
also run with the tests of the folder under `tests/` that mirrors the module's, except those with a reason.
"""

import argparse
import ast
import contextlib
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest

from tests.mutations import Mutation, mutations

ROOT = Path(__file__).parents[1]
# Imported once; every mutation runs in a fork of this process, which imports the package itself.
HEAVY = (
    "torch",
    "pandas",
    "scipy",
    "pyarrow.parquet",
    "safetensors.torch",
    "biotite.structure.io",
    "pydantic",
    "pytest",
)
SHORTEST_LIMIT, SLOWNESS = 30.0, 3.0  # seconds, and a multiple of the tests' time without a mutation
NAMED_BY = ("path", "line", "column", "kind", "before", "after")
RULES, WORKFLOW_LIMIT = ".smk", 600.0
# A workflow's jobs are separate processes, whose lines are not traced: run all of these, the fast ones first.
WORKFLOW_TESTS = [
    f"tests/workflow/test_{name}.py" for name in ("tracked", "jobs", "declared_files", "workflow", "cache_table")
]
SLOWEST = 10.0  # seconds; slower tests are not considered
CAUGHT, SURVIVED, TIMEOUT = "caught", "survived", "timeout"


@dataclass
class Covered:
    """Run without a mutation: seconds of each test, and the tests that run each line."""

    seconds: dict[str, float] = field(default_factory=dict)
    tests: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


class Tracer:
    """A pytest plugin that records the tests that run each line of some files."""

    def __init__(self, files: set[str]) -> None:
        self.files, self.now, self.covered = files, "", Covered()

    def _line(self, frame, event: str, argument: object) -> Callable:
        self.covered.tests.setdefault((frame.f_code.co_filename, frame.f_lineno), set()).add(self.now)
        return self._line

    def _call(self, frame, event: str, argument: object) -> Callable | None:
        return self._line(frame, event, argument) if frame.f_code.co_filename in self.files else None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = nodeid
        sys.settrace(self._call)
        threading.settrace(self._call)

    def pytest_runtest_logreport(self, report) -> None:
        self.covered.seconds[report.nodeid] = self.covered.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.covered.failed.append(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef) -> Iterator[None]:
        test = self.now
        if fixturedef.scope != "function":  # shared by other tests of the file
            self.now = test.split("::")[0]
        try:
            return (yield)
        finally:
            self.now = test

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)
        threading.settrace(None)


def copy_of_the_tree(folder: Path) -> Path:
    """A copy of the repository's files, including uncommitted changes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    # By content, so that a changed file is always recompiled.
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "dplm2", "tests"]
    subprocess.run(command, cwd=folder, check=True)
    return folder


def sources(paths: Sequence[str]) -> list[str]:
    """The files at the paths, relative to the repository."""
    found = []
    for path in map(Path, paths):
        inside = sorted((ROOT / path).rglob("*.py")) + sorted((ROOT / path).rglob("*.smk"))
        found += inside if (ROOT / path).is_dir() else [ROOT / path]
    return [str(path.relative_to(ROOT)) for path in found]


def nearest(source: str, whole_room: bool) -> list[str]:
    """Test files that import a source by name, or all in the folder that mirrors the source's."""
    if source.endswith(RULES):
        return WORKFLOW_TESTS
    module = source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    room = ROOT / "tests" / Path(source).parts[1]
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    importing = [path for path in files if module in imported(path)]
    if source.endswith("command.py"):
        importing.append(ROOT / "tests" / "test_help.py")
    if whole_room or not importing:
        importing += [path for path in files if path.is_relative_to(room) and path not in importing]
    return [str(path.relative_to(ROOT)) for path in importing]


def imported(path: Path) -> set[str]:
    """The modules that a file imports, and the names imported from them as if they were modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def forked(work: Callable[[], int], limit: float | None, said: Path) -> int | None:
    """The exit status of ``work`` in a separate process, or None if it exceeds the limit.

    The limit is in CPU seconds, which do not depend on other work; the wall-clock limit is twenty times as long.
    """
    child = os.fork()
    if not child:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), resource.RLIM_INFINITY))
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        try:
            status = int(work())
        except BaseException:
            traceback.print_exc()
            status = 70
        sys.stdout.flush()
        os._exit(status)
    end = math.inf if limit is None else time.monotonic() + 20 * limit
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(status)
                return None if status == -signal.SIGXCPU else status
            time.sleep(0.05)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # including processes started by the tests
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def run_tests(tree: Path, tests: Sequence[str], plugins: Sequence[object] = ()) -> int:
    """Run tests of the copy in this process, until one fails."""
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "dplm2")]:
        del sys.modules[name]
    first = [] if plugins else ["--exitfirst"]
    return pytest.main(["-q", "--tb=line", "-p", "no:cacheprovider", *first, *tests], plugins=list(plugins))


def covered_by(tree: Path, files: Sequence[str], tests: Sequence[str]) -> Covered:
    """Run the tests without a mutation."""
    kept = tree.parent / "covered"
    tracer = Tracer({str(tree / file) for file in files})

    def work() -> int:
        run_tests(tree, tests, [tracer])
        kept.write_bytes(pickle.dumps(tracer.covered))
        return 0

    if forked(work, None, tree.parent / "said"):
        raise SystemExit((tree.parent / "said").read_text())
    return pickle.loads(kept.read_bytes())


def chosen(mutation: Mutation, tree: Path, covered: Covered, near: Sequence[str]) -> list[str]:
    """The tests to run, fast files first: those that run the line, or all nearest ones if none does."""
    sound = [test for test, took in covered.seconds.items() if test not in covered.failed and took < SLOWEST]
    hit = covered.tests.get((str(tree / mutation.path), mutation.line), set())
    tests = [test for test in sound if test in hit or test.split("::")[0] in hit]
    tests = tests or [test for test in sound if test.split("::")[0] in near]
    seconds = dict.fromkeys((test.split("::")[0] for test in tests), 0.0)
    for test in tests:
        seconds[test.split("::")[0]] += covered.seconds[test]
    return sorted(tests, key=lambda test: (seconds[test.split("::")[0]], test.split("::")[0]))


def tried(mutation: Mutation, tree: Path, tests: Sequence[str], limit: float) -> tuple[str, str]:
    """Outcome of a mutation, and the first test that failed."""
    place, said = tree / mutation.path, tree.parent / "said"
    sound = place.read_bytes()
    place.write_bytes(mutation.applied(sound))
    try:
        status = forked(lambda: run_tests(tree, tests), limit, said)
    finally:
        place.write_bytes(sound)
    if status is None:
        return TIMEOUT, ""
    failed = [line for line in said.read_text(errors="replace").splitlines() if line.startswith(("FAILED", "ERROR"))]
    return (SURVIVED if status == 0 else CAUGHT), (failed[0].split(" ")[1] if failed else "")


def rows_of(drawn: Sequence[Mutation], tree: Path, everything: bool) -> Iterator[dict]:
    """Run one mutation after the other; yields their outcomes."""
    near = {path: nearest(path, everything) for path in sorted({mutation.path for mutation in drawn})}
    modules = [path for path in near if not path.endswith(RULES)]
    files = sorted({file for path in modules for file in near[path]})
    print(f"{len(drawn)} faults in {len(near)} files; {len(files)} test files without a fault", flush=True)
    covered = covered_by(tree, modules, files) if files else Covered()
    print(f"{len(covered.seconds)} tests, {sum(covered.seconds.values()):.0f} s; failed: {covered.failed}", flush=True)
    for mutation in drawn:
        tests, limit = near[mutation.path], WORKFLOW_LIMIT
        if mutation.path in modules:
            tests = chosen(mutation, tree, covered, tests)
            limit = SHORTEST_LIMIT + SLOWNESS * sum(covered.seconds[name] for name in tests)
        start = time.monotonic()
        outcome, test = tried(mutation, tree, tests, limit)
        took = round(time.monotonic() - start, 1)
        row = {name: getattr(mutation, name) for name in NAMED_BY}
        yield row | {"outcome": outcome, "test": test, "tests": len(tests), "seconds": took}


def key_of(row: dict) -> tuple:
    return tuple(row[name] for name in NAMED_BY)


def possible(paths: Sequence[str]) -> list[Mutation]:
    """All possible mutations of files and folders."""
    return [mutation for path in sources(paths) for mutation in mutations(path, (ROOT / path).read_bytes())]


def read(out: Path) -> dict[tuple, dict]:
    """The mutations of earlier runs by key."""
    return {key_of(row): row for row in json.loads(out.read_text())["faults"]} if out.exists() else {}


def to_try(known: dict[tuple, dict], arguments: argparse.Namespace) -> list[Mutation]:
    """A random selection without known mutations, determined by the seed; or the survivors."""
    faults = possible(arguments.paths)
    if arguments.again:
        survivors = {key for key, row in known.items() if row["outcome"] == SURVIVED and not row.get("reason")}
        return [mutation for mutation in faults if key_of(vars(mutation)) in survivors]
    drawn = random.Random(arguments.seed).sample(faults, min(arguments.number, len(faults)))
    return [mutation for mutation in drawn if key_of(vars(mutation)) not in known]


def write(out: Path, rows: Sequence[dict]) -> None:
    """Write counts, then a line per mutation."""
    counts = Counter(row["outcome"] for row in rows)
    by_file = {
        path: Counter(row["outcome"] for row in rows if row["path"] == path)
        for path in sorted({r["path"] for r in rows})
    }
    summary = {"tried": len(rows), **{name: counts[name] for name in (CAUGHT, TIMEOUT, SURVIVED)}, "files": by_file}
    lines = ",\n  ".join(
        json.dumps(row) for row in sorted(rows, key=lambda row: (row["outcome"] == CAUGHT, key_of(row)[:2]))
    )
    text = json.dumps(summary, indent=1)[:-2] + f',\n "faults": [\n  {lines}\n ]\n}}\n'
    unfinished = out.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", help="files and folders of the package, or rules/")
    parser.add_argument("--number", type=int, default=100, help="faults to draw (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutation.json", help="what came of each")
    parser.add_argument(
        "--again", action="store_true", help="try survivors in --out that have no reason, on more tests"
    )
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    known = read(arguments.out)
    faults = to_try(known, arguments)
    for name in HEAVY:
        import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_the_tree(Path(folder) / "tree")
        for row in rows_of(faults, tree, arguments.again):
            reason = known.get(key_of(row), {}).get("reason")
            known[key_of(row)] = row | ({"reason": reason} if reason else {})
            write(arguments.out, list(known.values()))
            place = f"{row['path']}:{row['line']}"
            print(f"{row['outcome']:9s}{place} {row['kind']}: {row['before']!r} -> {row['after']!r}", flush=True)
    outcomes = Counter(row["outcome"] for row in known.values())
    print(f"{arguments.out}: " + ", ".join(f"{outcomes[name]} {name}" for name in (CAUGHT, TIMEOUT, SURVIVED)))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DPLM2_SHARED", str(ROOT.parent / "shared"))
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # takes the tests of the fork along
    sys.exit(main())
