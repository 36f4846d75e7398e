"""Broken inputs of every kind are read or refused with one line: no traceback, no hang, no excessive memory.

    python -m tests.fuzz --files 2000 --out benchmarks/results/fuzz.json

Valid files are broken by flipped bytes, cuts, repeats, swapped lines and parts of other files, determined by a seed.
Worker processes read them with a memory limit and an alarm per file; if a worker dies, the file fails that it was
reading, and the next worker continues after it.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.structures.fuzz import MUTATIONS

ROOT = Path(__file__).parents[1]
SECONDS, MEMORY = 10, 2 << 30
KEPT_TRACEBACKS = 5
SEARCHED = 1 << 15  # bytes of a file


class HangError(BaseException):
    """A file took longer than `SECONDS`; no handler of the package may catch it."""


@dataclass
class Kind:
    """A kind of input: valid files, and the function that reads them."""

    name: str
    seeds: list[bytes]
    read: Callable[[bytes, Path], object]


@dataclass
class Outcome:
    """Results for the files of a kind."""

    files: int = 0
    read: int = 0
    refused: int = 0
    hangs: int = 0
    killed: int = 0
    unexpected: Counter = field(default_factory=Counter)
    tracebacks: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    largest_growth_mib: float = 0.0


def splice(seeds: Sequence[bytes], data: bytes, draw: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    other = draw.choice(seeds)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def nest(data: bytes, draw: random.Random) -> bytes:
    """A text with a deeply nested middle."""
    place, opening = draw.randrange(len(data) + 1), draw.choice((b"[", b"{", b"(", b'{"a":', b"- "))
    return data[:place] + opening * draw.choice((30, 3000, 100_000)) + data[place:]


def change_value(data: bytes, draw: random.Random) -> bytes:
    """A file with one number or word replaced: still valid text with another meaning."""
    found = list(re.finditer(rb"-?[0-9.]+|[A-Za-z_]+", data[:SEARCHED]))
    if not found:
        return data
    place = draw.choice(found)
    values = (
        b"0",
        b"-1",
        b"1e400",
        b"9" * 30,
        b"99999999",
        b"3",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"nan",
        b"7.5",
    )
    return data[: place.start()] + draw.choice(values) + data[place.end() :]


def broken(kind: Kind, number: int, seed: int) -> bytes:
    """The broken file with this number."""
    draw = random.Random(f"{seed}-{kind.name}-{number}")
    data = draw.choice(kind.seeds)
    for _ in range(draw.choice((1, 1, 2, 3))):
        chance = draw.random()
        if chance < 0.1:
            data = splice(kind.seeds, data, draw)
        elif chance < 0.13:
            data = nest(data, draw)
        elif chance < 0.4:
            data = change_value(data, draw)
        else:
            data = draw.choice(MUTATIONS)(data or b"x", draw)
    return data


def fuzz(kind: Kind, files: int, folder: Path, seed: int = 0) -> Outcome:
    """Read broken files of a kind in workers with limits."""
    outcome, start = Outcome(files), 0
    while start < files:
        start = _run_worker(kind, start, files, folder, seed, outcome)
    return outcome


def _run_worker(kind: Kind, start: int, files: int, folder: Path, seed: int, outcome: Outcome) -> int:
    """Let one worker read from number ``start``; returns the number at which the next one starts."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with contextlib.suppress(BaseException):
            _work(kind, range(start, files), folder, seed, writing)
        os._exit(0)
    os.close(writing)
    done = start
    with os.fdopen(reading, encoding="utf-8") as lines:
        for line in lines:
            _take(json.loads(line), outcome)
            done += 1
    os.waitpid(child, 0)
    if done < files:
        outcome.killed += 1
        outcome.tracebacks.append(f"{kind.name} {done}: the worker died")
        done += 1
    return done


def _work(kind: Kind, numbers: range, folder: Path, seed: int, writing: int) -> None:
    signal.signal(signal.SIGALRM, _alarm)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.disable(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for number in numbers:
        os.write(writing, (json.dumps(_one(kind, number, folder, seed)) + "\n").encode())


def _one(kind: Kind, number: int, folder: Path, seed: int) -> dict:
    from dplm2.core.errors import DPLM2Error

    data, error = broken(kind, number, seed), None
    before, start = _resident_mib(), time.monotonic()
    signal.alarm(SECONDS)
    try:
        kind.read(data, folder)
        result = "read"
    except DPLM2Error as problem:
        result = "refused" if str(problem).strip() else "unexpected"
    except HangError:
        result = "hang"
        error = traceback.format_exc()
    except BaseException:
        result, error = "unexpected", traceback.format_exc()
    finally:
        signal.alarm(0)
    return {
        "number": number,
        "result": result,
        "traceback": error,
        "seconds": time.monotonic() - start,
        "growth": max(0.0, _resident_mib() - before),
    }


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _alarm(*_: object) -> None:
    raise HangError


def _take(line: dict, outcome: Outcome) -> None:
    outcome.slowest_seconds = max(outcome.slowest_seconds, line["seconds"])
    outcome.largest_growth_mib = max(outcome.largest_growth_mib, line["growth"])
    outcome.read += line["result"] == "read"
    outcome.refused += line["result"] == "refused"
    outcome.hangs += line["result"] == "hang"
    if line["result"] == "unexpected":
        outcome.unexpected[(line["traceback"] or "an error without a message").strip().splitlines()[-1][:150]] += 1
    if line["traceback"] and len(outcome.tracebacks) < KEPT_TRACEBACKS:
        outcome.tracebacks.append(f"number {line['number']}:\n{line['traceback']}")


# What the package does with an input of each kind -------------------------------------------------------------------


def kinds(folder: Path) -> Iterator[Kind]:
    """All kinds; their valid files are created in ``folder`` or part of the repository."""
    from tests import fuzz_seeds as seeds

    made = seeds.make(folder)
    for name, (files, read) in seeds.readers(made).items():
        yield Kind(name, files, read)


def report(outcomes: dict[str, Outcome], seed: int) -> dict:
    """The results in the output format."""
    rows = {
        name: {
            "files": one.files,
            "read": one.read,
            "refused": one.refused,
            "tracebacks": sum(one.unexpected.values()),
            "hangs": one.hangs,
            "killed": one.killed,
            "slowest_seconds": round(one.slowest_seconds, 2),
            "largest_growth_mib": round(one.largest_growth_mib),
        }
        for name, one in outcomes.items()
    }
    return {"seed": seed, "limit_seconds": SECONDS, "limit_mib": MEMORY >> 20, "kinds": rows}


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="broken files of each kind")
    parser.add_argument("--kinds", nargs="*", help="only these kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dplm2-fuzz-"))
    outcomes = {}
    try:
        for kind in kinds(folder):
            if not options.kinds or kind.name in options.kinds:
                outcomes[kind.name] = one = fuzz(kind, options.files, folder, options.seed)
                print(kind.name, json.dumps(report({kind.name: one}, options.seed)["kinds"][kind.name]), flush=True)
                print("\n".join([*(f"  {n} x {text}" for text, n in one.unexpected.items()), *one.tracebacks]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.out:
        options.out.write_text(json.dumps(report(outcomes, options.seed), indent=1) + "\n", encoding="utf-8")
    return int(any(one.unexpected or one.hangs or one.killed for one in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
