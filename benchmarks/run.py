"""Compare the speed of the working tree with that of another commit, by the short forms of all benchmarks.

    python -m benchmarks.run --compare HEAD~1
    python -m benchmarks.run --compare main --only tokenizer sampling --rounds 4 --out comparison.json

The other commit is checked out in a temporary folder, and each benchmark runs there and here in turns (A B A B), since
a machine's speed drifts. Both run the scripts of the working tree, each in its own process with the package of its
commit, on the processor time where a script can measure that. All measurements are seconds: the ratio of a round is the
time here over the time there, below 1 if the working tree is faster. The median ratio is printed with the lowest and
the highest of the rounds. Exit status 1 if something is slower by more than ``--tolerance`` in every round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dplm2.core.artifacts import library_versions, write_json

ROOT = Path(__file__).resolve().parents[1]
HERE, THERE = "here", "there"


@dataclass(frozen=True)
class Short:
    """The short form of a benchmark.

    Attributes
    ----------
    arguments
        Of the script, without ``--out``.
    seconds
        Function from the script's results to named seconds.
    """

    arguments: tuple[str, ...]
    seconds: Callable[[Any], dict[str, float]]


def _of_tokenizer(results: Mapping) -> dict[str, float]:
    return {
        f"{row['task']} {row['length']} residues, {row['precision']}": row["length"] / row["residues_per_second"]
        for row in results["rows"]
    }


def _of_training(results: Mapping) -> dict[str, float]:
    return {f"{row['mode']}, {row['precision']}": row["seconds_per_step"] for row in results["results"]}


def _of_evaluation(results: Mapping) -> dict[str, float]:
    metrics = results["metrics_but_folding"]["cpu_seconds"]
    return {"TM-score of a pair": 1 / results["tm_score"]["ours_pairs_per_second"], **metrics}


SHORT = {
    "start": Short(("--repetitions", "2"), lambda results: results["cpu_seconds"]),
    "planning": Short(
        ("--files", "2000", "--shards", "4"),
        lambda results: {name: results[name]["cpu_seconds"] for name in ("first", "second", "one_file_more")},
    ),
    "tokenizer": Short(
        ("--encode-lengths", "100", "--decode-lengths", "100", "--repetitions", "3"), _of_tokenizer
    ),
    "sampling": Short(
        ("--size", "150M", "--batch", "2", "--length", "100", "--repetitions", "3", "--clock", "cpu"),
        lambda results: {
            name: results["results"][f"seconds_{name}"] for name in ("per_step", "of_sampler_in_step")
        },
    ),
    "training": Short(
        ("--size", "150M", "--chains", "2", "--residues", "64", "--repetitions", "3", "--clock", "cpu",
         "--precision", "fp32", "bf16"),
        _of_training,
    ),
    "loop": Short(
        ("--steps", "100", "--rounds", "1"),
        lambda results: {"a step": results["milliseconds_per_step"]["loop"] / 1000},
    ),
    "embedding": Short(
        ("--size", "150M", "--proteins", "2", "--repeats", "1", "--clock", "cpu", "--threads", "2"),
        lambda results: {name: row["embed"] for name, row in results["results"].items()},
    ),
    "evaluation": Short(("--samples", "40"), _of_evaluation),
}  # fmt: skip
SCRIPTS = {
    "start": "start", "planning": "workflow", "tokenizer": "tokenizer", "sampling": "generate",
    "training": "train_step", "loop": "training_loop", "embedding": "embed", "evaluation": "evaluation",
}  # fmt: skip


class Unmeasured(Exception):
    """A script failed, for example because the other commit lacks what it measures."""


def environment(tree: Path) -> dict[str, str]:
    """Environment in which Python imports the package of a checkout."""
    return {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}


def check_package(tree: Path) -> None:
    """End if Python would import another package than that of the checkout."""
    call = [sys.executable, "-c", "import dplm2; print(dplm2.__file__)"]
    found = subprocess.run(call, cwd=tree, env=environment(tree), capture_output=True, text=True, check=True).stdout
    if Path(found.strip()).resolve() != (tree / "dplm2/__init__.py").resolve():
        raise SystemExit(f"{tree}: Python imports {found.strip()} instead of the package there")


def measure(name: str, tree: Path, out: Path) -> dict[str, float]:
    """Named seconds of one run of a short form."""
    call = [sys.executable, "-m", f"benchmarks.{SCRIPTS[name]}", *SHORT[name].arguments, "--out", str(out)]
    finished = subprocess.run(call, cwd=tree, env=environment(tree), capture_output=True, text=True)
    if finished.returncode:
        reason = (finished.stderr.strip() or finished.stdout.strip() or "no output").splitlines()[-1]
        raise Unmeasured(f"{name}, with the package of {tree}: {reason}")
    return SHORT[name].seconds(json.loads(out.read_text(encoding="utf-8")))


def checkout(commit: str, folder: Path) -> str:
    """Check a commit out in a folder, with the benchmarks of the working tree; returns its hash."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--verify", f"{commit}^{{commit}}"], capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"--compare: {commit} is not a commit of this repository")
    subprocess.run([*git, "worktree", "add", "--detach", "--quiet", str(folder), found.stdout.strip()], check=True)
    shutil.rmtree(folder / "benchmarks", ignore_errors=True)
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__"))
    return found.stdout.strip()


def rounds_of(name: str, trees: Mapping[str, Path], rounds: int, work: Path) -> Iterator[dict[str, dict[str, float]]]:
    """Named seconds of both commits, round by round."""
    for number in range(rounds):
        yield {side: measure(name, tree, work / f"{name}-{number}-{side}.json") for side, tree in trees.items()}


def compared(name: str, found: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """A row per measurement: median seconds of both commits, and the ratio with its spread."""
    rows = []
    for what in found[0][HERE]:
        seconds = {side: [each[side][what] for each in found] for side in (THERE, HERE)}
        ratios = [here / there for there, here in zip(seconds[THERE], seconds[HERE], strict=True)]
        medians = {f"seconds_{side}": statistics.median(values) for side, values in seconds.items()}
        spread = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        rows.append({"benchmark": name, "measurement": what, **medians, **spread})
    return rows


def line(row: Mapping[str, Any]) -> str:
    """A row as text."""
    what = f"{row['benchmark']}: {row['measurement']}"
    seconds = f"{row['seconds_there']:>10.4g} {row['seconds_here']:>10.4g}"
    return f"{what:<52} {seconds} {row['ratio']:>7.2f}  {row['lowest']:.2f} to {row['highest']:.2f}"


def main() -> int:
    """Measure and print; the exit status says whether something became slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", required=True, metavar="BASE", help="the other commit")
    parser.add_argument("--only", nargs="+", choices=SHORT, default=list(SHORT))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=0.1, help="of the time, in every round (default: 0.1)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dplm2-compare-") as folder:
        work, base = Path(folder), Path(folder) / "base"
        commit = checkout(options.compare, base)
        try:
            trees = {THERE: base, HERE: ROOT}
            for tree in trees.values():
                check_package(tree)
            print(f"{'seconds, there and here':<52} {commit[:10]:>10} {'here':>10} {'ratio':>7}  spread", flush=True)
            for name in options.only:
                try:
                    new = compared(name, list(rounds_of(name, trees, options.rounds, work)))
                except Unmeasured as error:
                    print(f"not compared: {error}", file=sys.stderr, flush=True)
                    continue
                rows += new
                print("\n".join(map(line, new)), flush=True)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(base)], check=True)
    if options.out:
        write_json(options.out, {"base": commit, "rounds": options.rounds, "versions": library_versions(),
                                 "rows": rows})  # fmt: skip
    slower = [row for row in rows if row["lowest"] > 1 + options.tolerance]
    for row in slower:
        print(f"slower in every round: {row['benchmark']}: {row['measurement']}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
