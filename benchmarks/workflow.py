"""Cost of planning a run: the first and the second `snakemake --dry-run` with many structure files.

    python -m benchmarks.workflow                      542,000 files of a few bytes, in 55 shards
    python -m benchmarks.workflow --files 20000 --megabytes 0.1
    python -m benchmarks.workflow --files 5420000 --shards 550 --links --name ten_times

The second one follows a run that has written its manifests. No file is read, independently of its size: `--megabytes`
creates sparse files of that size. `--links`: names of one file for each folder, which spare the disk. `--work` is a
folder on the disk to test; most time is needed to create the files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from dplm2.core.artifacts import library_versions, write_json
from dplm2.stages import Plan

ROOT = Path(__file__).parents[1]
PER_FOLDER = 1000


def make_files(folder: Path, number: int, size: int, links: bool = False) -> None:
    """Create structure files, or names of one, a thousand per folder."""
    for i in range(number):
        path = folder / f"{i // PER_FOLDER:04d}" / f"AF-{i:08d}-F1-model_v4.cif.gz"
        if i % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
            first = path
        elif links:
            path.hardlink_to(first)
            continue
        with path.open("wb") as stream:
            stream.write(b"data_\n")
            stream.truncate(max(size, 6))


def dry_run(work: Path, *arguments: str) -> dict:
    """Seconds and peak memory of a dry run, and its number of jobs."""
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *arguments,
        "--snakefile",
        ROOT / "Snakefile",
        "--dry-run",
        "--quiet",
        "rules",
    ]
    child = subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(said)
    jobs = next((line.split()[1] for line in said.splitlines() if line.startswith("total ")), "0")
    processor = usage.ru_utime + usage.ru_stime
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": processor}
    return {**seconds, "peak_memory_mb": usage.ru_maxrss / 1024, "jobs": int(jobs)}


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=542_000)
    parser.add_argument("--shards", type=int, default=55)
    parser.add_argument("--megabytes", type=float, default=0.0)
    parser.add_argument("--links", action="store_true", help="names of one file for each folder, instead of files")
    parser.add_argument("--name", help="part of the results to write; the others are kept (default: all of them)")
    parser.add_argument("--work", type=Path, help="where to make the files (default: the system's temporary folder)")
    parser.add_argument("--note", default="", help="kept in the result, for example that the machine was busy")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/workflow.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dplm2-benchmark-", dir=options.work) as folder:
        work = Path(folder)
        make_files(work / "files", options.files, int(options.megabytes * (1 << 20)), options.links)
        configuration = {"datasets": {"many": {"files": "files", "shards": options.shards}}}
        (work / "config.yaml").write_text(yaml.safe_dump(configuration))
        found = {"files": options.files, "shards": options.shards, "first": dry_run(work, "structures")}
        os.chdir(work)
        Plan(configuration).write_manifests()
        os.chdir(ROOT)
        found["second"] = dry_run(work, "structures")
        (work / "files/0000/new.cif").write_text("data_\n")
        found["one_file_more"] = dry_run(work, "structures")
    found |= {"load": os.getloadavg()[0], "note": options.note, "versions": library_versions()}
    write_json(options.out, {**json.loads(options.out.read_text()), options.name: found} if options.name else found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
