"""What a command costs before its work begins: importing, opening the small model, reaching the first step.

    python -m benchmarks.start [--repetitions 3] [--imports] [--out benchmarks/results/start.json]

Seconds of the processor, which other work on the machine hardly affects, and of the clock: of the help of each
subcommand, of the imports that most commands need (`python -X importtime` gives their shares, with ``--imports``), of
``dplm2 generate`` from its start to its first step, and of a whole short run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dplm2.cli import COMMANDS
from dplm2.core.artifacts import library_versions, write_json

REACHED = 7  # exit status of a run that ends at its first step
GENERATE = ["generate", "co-generation", "--model", "small", "--set", "lengths=[60]", "samples=1", "steps=1", "--out"]
TO_FIRST_STEP = f"""\
import os, sys
from dplm2.language.denoising import Denoiser
Denoiser.advance = lambda self: os._exit({REACHED})
from dplm2.cli import main
main(sys.argv[1:])
"""


def measured(call: list[str], status: int = 0) -> dict[str, float]:
    """Seconds of a command and of the processor."""
    start = time.perf_counter()
    child = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = child.stderr.read()
    _, found, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(found) != status:
        raise SystemExit(f"{' '.join(call)}: {said.strip() or 'ended otherwise than expected'}")
    return {"cpu": usage.ru_utime + usage.ru_stime, "clock": time.perf_counter() - start}


def calls(folder: Path) -> dict[str, tuple[list[str], int]]:
    """The measured commands and their exit statuses, by name."""
    python, dplm2 = [sys.executable], [sys.executable, "-m", "dplm2"]
    found = {"--help": ([*dplm2, "--help"], 0)}
    found |= {f"{name} --help": ([*dplm2, name, "--help"], 0) for name in COMMANDS}
    found["import torch"] = [*python, "-c", "import torch"], 0
    found["import transformers' ESM-2"] = [*python, "-c", "from transformers import EsmForMaskedLM"], 0
    found["import dplm2.generation.run"] = [*python, "-c", "import dplm2.generation.run"], 0
    found["generate to its first step"] = [*python, "-c", TO_FIRST_STEP, *GENERATE, str(folder / "first")], REACHED
    found["generate, one step of 60 residues"] = [*dplm2, *GENERATE, str(folder / "whole")], 0
    return found


def shares(call: list[str], status: int) -> dict[str, float]:
    """Seconds of importing, by top-level package, of a Python command."""
    said = subprocess.run([call[0], "-X", "importtime", *call[1:]], capture_output=True, text=True)
    if said.returncode != status:
        raise SystemExit(said.stderr.strip().splitlines()[-1])
    own: Counter[str] = Counter()
    for microseconds, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", said.stderr, re.MULTILINE):
        own[name.split(".")[0]] += int(microseconds)
    return {name: round(microseconds / 1e6, 3) for name, microseconds in own.most_common(12)}


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="the fastest of them counts")
    parser.add_argument("--imports", action="store_true", help="also the shares of the imported packages")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds = {"cpu": {}, "clock": {}}
    with tempfile.TemporaryDirectory(prefix="dplm2-start-") as folder:
        chosen = calls(Path(folder))
        for name, (call, status) in chosen.items():
            found = [measured(call, status) for _ in range(options.repetitions)]
            for kind in seconds:
                seconds[kind][name] = round(min(each[kind] for each in found), 3)
            print(f"{name}: {seconds['cpu'][name]:.2f} s of the processor, {seconds['clock'][name]:.2f} s", flush=True)
        imports = shares(*chosen["generate to its first step"]) if options.imports else None
    result = {f"{kind}_seconds": values for kind, values in seconds.items()} | {"versions": library_versions()}
    if imports:
        result["imports_of_generate"] = imports
        print(json.dumps(imports, indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
