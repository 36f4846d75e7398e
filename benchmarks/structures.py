"""Speed, memory and robustness of the structures stage, on real chains.

    python -m benchmarks.structures --corpus CORPUS --workers 2
    python -m benchmarks.structures --corpus CORPUS --only fuzz --fuzzed 2000

CORPUS contains ``train/*.bcif.gz`` and ``raw/``. Each measurement runs the command like a user, from files to Parquet,
including hashes, cleaning, selection and program start. Wall-clock time and the CPU time of all processes are reported;
on a machine with other users, only the latter is meaningful.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dplm2.core.artifacts import library_versions, write_json
from dplm2.structures.manifest import list_files

ROOT = Path(__file__).resolve().parents[1]
SMALL, LARGE, CHECKED = 1000, 10_000, 100_000
WATCH_SECONDS = 0.1


def measured(call: list[str]) -> dict[str, float]:
    """Run a command; returns wall-clock and CPU seconds and peak memory of it and its descendants."""
    start, processor, peak = time.perf_counter(), {}, 0.0
    with tempfile.TemporaryFile("w+") as errors:
        running = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT)
        while running.poll() is None:
            members = family(running.pid)
            peak = max(peak, sum(map(proportional_memory, members)))
            processor.update((pid, seconds) for pid in members if (seconds := processor_seconds(pid)))
            time.sleep(WATCH_SECONDS)
        if running.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(call)}\n{errors.read()}")
    wall = time.perf_counter() - start
    return {"wall_seconds": wall, "processor_seconds": sum(processor.values()), "peak_memory_mb": peak}


def clean(inputs: Path, out: Path, workers: int) -> dict:
    """Clean a folder, and report the speed."""
    files = sum(1 for path in inputs.iterdir())
    shutil.rmtree(out, ignore_errors=True)
    config = json.dumps({"datasets": {"d": {"files": str(inputs), "filters": {"max_length": 1022}}}})
    call = [sys.executable, "-m", "dplm2", "structures", "clean", str(inputs), "--out", str(out)]
    found = measured([*call, "--config", config, "--workers", str(workers)])
    found |= {"files": files, "files_per_wall_second": files / found["wall_seconds"]}
    # Estimate for idle cores: CPU seconds divided by the number of workers.
    found["files_per_second_unloaded"] = workers * files / found["processor_seconds"]
    return found


def repeated(sources: list[Path], folder: Path, count: int) -> Path:
    """The corpus, repeated under other names."""
    folder.mkdir(parents=True)
    for i in range(count):
        source = sources[i % len(sources)]
        round_, ending = i // len(sources), "".join(source.suffixes)
        shutil.copy(source, folder / f"{source.name.removesuffix(ending)}.r{round_:03d}{ending}")
    return folder


def binary_cif(options: argparse.Namespace, work: Path) -> dict:
    """Gzipped BinaryCIF, one chain per file: 1,000 and 10,000 files, and a single one for the cost of the start."""
    sources = sorted((options.corpus / "train").glob("*.bcif.gz"))
    found = {}
    for count in (1, SMALL, LARGE):
        folder = repeated(sources, work / f"bcif-{count}", count)
        found[str(count)] = clean(folder, work / "out", options.workers)
        shutil.rmtree(folder)
    small, large = (found[str(count)]["files_per_second_unloaded"] for count in (SMALL, LARGE))
    start = found["1"]["processor_seconds"]
    rates = [count / (found[str(count)]["processor_seconds"] - start) for count in (SMALL, LARGE)]
    return {**found, "rate_ratio": large / small, "rate_ratio_after_start": rates[1] / rates[0]}


def pdb_text(options: argparse.Namespace, work: Path) -> dict:
    """The same chains as PDB text with all heavy atoms, written by biotite."""
    import gzip

    from biotite.structure.io import pdb, pdbx

    folder = work / "pdb"
    folder.mkdir()
    for source in sorted((options.corpus / "train").glob("*.bcif.gz"))[:SMALL]:
        with gzip.open(source) as stream:
            atoms = pdbx.get_structure(pdbx.BinaryCIFFile.read(stream), model=1, extra_fields=["b_factor"])
        file = pdb.PDBFile()
        file.set_structure(atoms)
        file.write(folder / f"{source.name.removesuffix('.bcif.gz')}.pdb")
    return clean(folder, work / "out", options.workers)


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [one for child in task.read_text().split() for one in family(int(child))]
        except OSError:
            continue
    return found


def processor_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proportional_memory(pid: int) -> float:
    """Proportional memory of a process in MB: shared pages are divided among processes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def up_to_date(options: argparse.Namespace, work: Path) -> dict:
    """The workflow's check at every start, of 100,000 files."""
    folder = work / "many"
    for i in range(CHECKED):
        target = folder / f"{i % 100:02d}"
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{i}.cif").write_bytes(b"data_\n")
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        list_files(str(folder), work / "manifests", 32).write()
        seconds.append(time.perf_counter() - start)
    return {"files": CHECKED, "first_seconds": seconds[0], "up_to_date_seconds": seconds[1]}


def fuzz(options: argparse.Namespace, work: Path) -> dict:
    """Clean broken files; any failure stops with its traceback."""
    sys.path.insert(0, str(ROOT))
    from tests.structures import fuzz as broken
    from tests.structures.made import settings

    filters = {"min_length": 5, "max_length": 2000, "min_observed_fraction": 0.1}
    start = time.perf_counter()
    items = broken.broken_files(broken.seed_files(options.corpus), options.fuzzed, options.seed)
    outcomes = broken.run(items, settings(filters=filters))
    return {"files": options.fuzzed, "seconds": time.perf_counter() - start, "outcomes": dict(outcomes), "failures": 0}


MEASUREMENTS: dict[str, Callable] = {
    "binary_cif": binary_cif,
    "pdb_text": pdb_text,
    "up_to_date": up_to_date,
    "fuzz": fuzz,
}


def table(found: dict) -> str:
    """The results as a table."""
    lines = []
    for name, value in found.get("binary_cif", {}).items():
        if name == "1":
            lines.append(f"start of the program, one file: {value['processor_seconds']:.1f} s of processor time")
        elif isinstance(value, dict):
            lines.append(
                f"BinaryCIF.gz, {name} files: {value['files_per_wall_second']:.0f} files/s by the clock, "
                f"{value['files_per_second_unloaded']:.0f} by processor time"
            )
            lines.append(f"  memory of all processes: {value['peak_memory_mb']:.0f} MB")
        else:
            what = "less the start" if name.endswith("after_start") else "start and all"
            lines.append(f"  rate at {LARGE} files over rate at {SMALL}, by processor time, {what}: {value:.3f}")
    if one := found.get("pdb_text"):
        rates = one["files_per_wall_second"], one["files_per_second_unloaded"]
        lines.append(f"PDB text: {rates[0]:.0f} files/s by the clock, {rates[1]:.0f} by processor time")
    if one := found.get("up_to_date"):
        lines.append(f"up-to-date check of {one['files']} files: {one['up_to_date_seconds']:.1f} s")
    if one := found.get("fuzz"):
        lines.append(f"{one['files']} broken files in {one['seconds']:.0f} s: {one['outcomes']}")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append")
    parser.add_argument("--fuzzed", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="kept in the result, for example that the machine was busy")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/structures.json")
    options = parser.parse_args()
    options.corpus = options.corpus.resolve()
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for name in options.only or MEASUREMENTS:
        with tempfile.TemporaryDirectory(prefix="dplm2-benchmark-") as folder:
            found[name] = MEASUREMENTS[name](options, Path(folder))
    found["machine"] = {"cores": os.cpu_count(), "workers": options.workers, "load": os.getloadavg()[0]}
    found |= {"note": options.note, "versions": library_versions()}
    write_json(options.out, found)
    print(table(found))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
