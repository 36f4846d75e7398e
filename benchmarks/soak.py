"""Whole workflows at the smallest size, killed at random moments: do they end with the files of an undisturbed run?

    python -m benchmarks.soak --workflows 30

The process group of a run (Snakemake, the rules' shells, Python and its workers) is killed with SIGKILL up to six
times, each time unlocked and started again, then left to end. Its files are compared with those of a run that nothing
disturbed. Every stage of the workflow is in it. The results are written after every workflow.
"""

import argparse
import concurrent.futures
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from dplm2.core.artifacts import library_versions, write_json
from tests.workflow.conftest import ROOT, Workdir, contents

MOST_KILLS = 6
SHORTEST = 1.0  # seconds before a kill


def prepared(folder: Path) -> Workdir:
    """A working directory whose workflow has every stage, with one dataset and one task."""
    workdir = Workdir(folder, shares=False)
    configuration = workdir.configuration
    del configuration["datasets"]["test"]
    configuration["generation"] = {"co-generation": configuration["generation"]["co-generation"]}
    configuration["evaluation"]["reconstruction"] = ["own"]
    return workdir


def undisturbed(workdir: Workdir) -> tuple[dict[str, str], float]:
    """The files of a run to its end, and its seconds."""
    start = time.perf_counter()
    done = workdir.snakemake()
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return files_of(workdir), time.perf_counter() - start


def files_of(workdir: Workdir) -> dict[str, str]:
    """The results that a run has so far, by hash."""
    results = workdir.folder / "results"
    return contents(results) if results.is_dir() else {}


def killed_after(process: subprocess.Popen, seconds: float) -> bool:
    """Kill a process and its group, unless it ends before by itself."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def disturbed(workdir: Workdir, draw: random.Random, longest: float) -> dict:
    """A run that is killed at random moments, then left to end.

    Parameters
    ----------
    workdir
        Where to run.
    draw
        Draws the number of kills and the seconds before each.
    longest
        Most seconds before a kill.

    Returns
    -------
    dict
        ``kills``: seconds before each, and the number of result files then. ``status`` and ``files`` of the last run,
        ``seconds`` of all.
    """
    kills, start = [], time.perf_counter()
    for _ in range(draw.randint(1, MOST_KILLS)):
        seconds = draw.uniform(SHORTEST, longest)
        if not killed_after(workdir.start(), seconds):
            break
        kills.append({"after_seconds": seconds, "files": len(files_of(workdir))})
        workdir.snakemake("--unlock")
    done = workdir.snakemake()
    said = {"said": (done.stdout + done.stderr)[-2000:]} if done.returncode else {}
    ended = {"kills": kills, "seconds": time.perf_counter() - start, "status": done.returncode, **said}
    return {**ended, "files": files_of(workdir)}


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The files that one has and the other lacks, or that differ."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def one_workflow(folder: Path, seed: str, longest: float, expected: dict[str, str]) -> dict:
    """A disturbed run and how its files differ from the expected ones; its folder is removed if they do not."""
    run = disturbed(prepared(folder), random.Random(seed), longest)
    differing = differences(run["files"], expected)
    if not differing:
        shutil.rmtree(folder)
    return {**run, "files": len(run["files"]), "differing": differing}


def summary(runs: list[dict], expected: dict[str, str], seconds: float, note: str) -> dict:
    """What is written: totals first."""
    return {
        "workflows": len(runs),
        "equal": sum(not run["differing"] for run in runs),
        "kills": sum(len(run["kills"]) for run in runs),
        "files": len(expected),
        "undisturbed_seconds": seconds,
        "runs": runs,
        "load": os.getloadavg()[0],
        "note": note,
        "versions": library_versions(),
    }


def main() -> None:
    """Run, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflows", type=int, default=30)
    parser.add_argument("--at-once", type=int, default=1, help="workflows that run at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--work", type=Path, help="where to run (default: the system's temporary folder)")
    parser.add_argument("--note", default="", help="kept in the result, for example that the machine was busy")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/soak.json")
    options = parser.parse_args()
    work, runs = Path(tempfile.mkdtemp(prefix="dplm2-soak-", dir=options.work)), []
    expected, seconds = undisturbed(prepared(work / "undisturbed"))
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        started = [
            pool.submit(one_workflow, work / f"run-{n}", f"{options.seed}-{n}", seconds / 2, expected)
            for n in range(options.workflows)
        ]
        for each in concurrent.futures.as_completed(started):
            runs.append(each.result())
            found = summary(runs, expected, seconds, options.note)
            write_json(options.out, found)
            print(json.dumps({key: found[key] for key in ("workflows", "equal", "kills")}), flush=True)
    if found["equal"] < found["workflows"]:
        raise SystemExit(f"some files differ; the runs are in {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
