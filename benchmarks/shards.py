"""What a shard costs as, or in, a job of Slurm: processor and wall-clock seconds of cleaning and encoding.

    python -m benchmarks.shards --shards 100                     as the profile does it
    python -m benchmarks.shards --shards 100 --group 1           a job for each shard
    python -m benchmarks.shards --repository ../before           with another version of the workflow

Needs Slurm and munge (Debian: slurm-wlm, munge), which it starts in a folder of its own. Shards have one structure or
none, so that what is measured is the start of jobs and processes. Processor seconds are those of all processes of the
jobs and of the Snakemake that submits them; they say more than wall-clock seconds on a machine with other work.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from dplm2.core.artifacts import library_versions, write_json
from tests.workflow.slurm import Slurm

ROOT = Path(__file__).parents[1]
PARTITIONS = {'"cpu"': "processors", '"gpu"': "accelerators"}
STAGES = {"clean": "structures", "encode": "tokens/small"}
PR_SET_CHILD_SUBREAPER = 36


def configuration(shards: int) -> dict:
    """The structures of the demo, in many shards, and the tokenizer that comes with the package."""
    return {
        "device": "cpu",
        "threads": 1,
        "datasets": {"own": {"files": str(ROOT / "data/demo/train"), "shards": shards}},
        "tokenizers": {"small": {"pretrained": "small"}},
    }


def profile(repository: Path, work: Path) -> Path:
    """The profile for Slurm with the partitions of this one."""
    text = (repository / "profiles/slurm/config.yaml").read_text(encoding="utf-8")
    for shipped, here in PARTITIONS.items():
        text = text.replace(shipped, here)
    (work / "profile").mkdir()
    (work / "profile/config.yaml").write_text(text)
    return work / "profile"


def adopt_orphans() -> None:
    """Make processes whose parent has ended children of this one, so that their time is counted: those of jobs."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def processor_seconds() -> float:
    """Processor time of all children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(stage: str, shards: int, arguments: list, work: Path, environment: dict[str, str]) -> dict:
    """Processor and wall-clock seconds of the shards of a stage, and its numbers of Slurm jobs."""
    before, start = processor_seconds(), time.perf_counter()
    targets = [f"results/{STAGES[stage]}/own/part-{shard:05d}.parquet" for shard in range(shards)]
    command = [sys.executable, "-m", "snakemake", *targets, *map(str, arguments)]
    with (work / f"{stage}.log").open("w+") as log:
        child = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while (done := os.waitpid(child.pid, os.WNOHANG))[0] == 0:
            time.sleep(0.1)
        log.seek(0)
        said = log.read()
    if done[1]:
        raise SystemExit(said)
    seconds = time.perf_counter() - start
    time.sleep(5)  # Slurm's own processes end a little later
    return {
        "processor_seconds": processor_seconds() - before,
        "seconds": seconds,
        "jobs": said.count("has been submitted with SLURM jobid"),
    }


def run(repository: Path, shards: int, group: int | None, jobs: int) -> dict:
    """Clean, then encode, on a Slurm of two nodes."""
    work = Path(tempfile.mkdtemp(prefix="shards-"))
    try:
        (work / "config.yaml").write_text(yaml.safe_dump(configuration(shards)))
        arguments = ["--snakefile", repository / "Snakefile", "--profile", profile(repository, work)]
        arguments += ["--jobs", jobs, "--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "20"]
        arguments += [] if group is None else ["--group-components", f"clean={group}", f"encode={group}"]
        (work / "slurm").mkdir()
        with Slurm(work / "slurm") as slurm:
            environment = {**os.environ, **slurm.environment, "PYTHONPATH": str(repository)}
            return {stage: measured(stage, shards, arguments, work, environment) for stage in STAGES}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """Measure, and add to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--group", type=int, help="shards in a job (default: as the profile says)")
    parser.add_argument("--jobs", type=int, default=4, help="of Slurm at the same time")
    parser.add_argument("--repository", type=Path, default=ROOT, help="whose workflow is run")
    parser.add_argument("--name", default="now", help="of this measurement in the results")
    parser.add_argument("--note", default="", help="kept in the result, for example that the machine was busy")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/shards.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends Slurm, too
    adopt_orphans()
    found = run(options.repository.resolve(), options.shards, options.group, options.jobs)
    found = {"shards": options.shards, "group": options.group, **found, "load": os.getloadavg()[0]}
    found |= {"note": options.note, "versions": library_versions()}
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    write_json(options.out, {**results, options.name: found})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
