"""``dplm2 status`` and ``dplm2 clean``: what is there, how large, what made it, and what no configuration refers to."""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dplm2.core.artifacts import RUN_FILE, read_json
from dplm2.core.errors import DPLM2Error
from dplm2.core.text import readable_size
from dplm2.report.states import State, remove, size_of, states, trainings, unreferred
from dplm2.settings import Configuration, load
from dplm2.settings.trainings import DECIDED_BY

KINDS = {
    "structures": "datasets",
    "tokenizers": "tokenizers",
    "tokens": "tokenizers",
    "models": "models",
    "samples": "models",
    "evaluation": "models",
    "designs": "models",
    "report": None,
}
# Folders of the state that are no training: each can be deleted, and is made again where it is needed.
CACHES = {
    "manifests": "lists of structure files, by shard",
    "inputs": "hashes of input files",
    "sequences": "sequence files, indexed",
    "encoder_features": "features of frozen encoders",
    "samples": "unfinished samples",
    "folding": "predicted structures",
}
STALE = "stale: not in the configuration"


class Row(NamedTuple):
    """One line of the listing."""

    kind: str
    name: str
    size: int
    remark: str


def finished(results: Path, settings: Configuration | None = None) -> Iterator[Row]:
    """Each folder of results with a ``run.json``."""
    for stage, kind in KINDS.items():
        for record in sorted((results / stage).rglob(RUN_FILE)):
            try:
                run = read_json(record)
                remark = f"{run['command']}, {run['wall_seconds']:.0f} s on {run['device']}"
            except (DPLM2Error, ValueError, KeyError, TypeError):
                remark = "unreadable run.json"
            name = record.parent.relative_to(results / stage)
            if settings is not None and kind is not None and not _names(settings, kind, name):
                remark = f"{remark}; {STALE}"
            size = sum(size_of(file) for file in record.parent.iterdir() if file.is_file())
            yield Row("finished", f"{stage}/{name}", size, remark)


def _names(settings: Configuration, kind: str, name: Path) -> bool:
    """Whether the configuration has the entry that a folder of results is named by."""
    first = name.parts[1] if name.parts[0] == "tokenizers" else name.parts[0]
    return first in getattr(settings, "tokenizers" if name.parts[0] == "tokenizers" else kind)


def saved(root: Path, settings: Configuration | None = None) -> Iterator[Row]:
    """Training progress for each saved state: step, last loss, and whether a process is running."""
    known = {} if settings is None else trainings(settings)
    for state in states(root):
        remark = _progress(state.folder) + (", running" if state.running else "")
        if settings is not None:
            remark += f"; of {known[state.key]}" if state.key in known else f"; {_doubt(state)}"
        yield Row("saved", str(state.folder.relative_to(root)), state.size, remark)


def _doubt(state: State) -> str:
    return "settings not recorded" if state.key is None else STALE


def _progress(folder: Path) -> str:
    try:
        newest = read_json(folder / "latest.json")
        record = read_json((folder / newest["file"]).with_suffix(".json"))
        remark = f"{record.get('label', 'training')}: step {newest['step']} saved"
    except (DPLM2Error, ValueError, KeyError, TypeError, AttributeError):
        return "no checkpoint" if not (folder / "latest.json").exists() else "unreadable record"
    loss = _last_loss(folder / "metrics.csv")
    return remark if loss is None else f"{remark}, loss {loss}"


def _last_loss(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            losses = [row["loss"] for row in csv.DictReader(stream) if row.get("loss")]
        return f"{float(losses[-1]):.4g}" if losses else None
    except (OSError, ValueError, csv.Error):
        return None


def cached(root: Path) -> Iterator[Row]:
    """What else lies in the state folder."""
    for folder in sorted(root.glob("*")):
        if folder.is_dir() and folder.name not in DECIDED_BY and (size := size_of(folder)):
            yield Row("cached", folder.name, size, CACHES.get(folder.name, "not of this program"))


def add_status(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 status``."""
    parser.description = (
        "List finished artifacts, saved training progress and caches: their sizes, and what made them. With "
        "configurations, also what they no longer refer to."
    )
    parser.epilog = "To list what a run would still do: snakemake --dry-run --quiet rules"
    parser.add_argument("--config", nargs="+", default=[], metavar="FILE", help="one configuration; later files win")
    parser.add_argument("--results", type=Path, metavar="DIR", help="default: the configuration's, else results")
    parser.add_argument("--state", type=Path, metavar="DIR", help="default: the configuration's, else state")
    parser.set_defaults(run=_run_status)


def _run_status(options: argparse.Namespace) -> None:
    settings = load(options.config) if options.config else None
    results = options.results or Path(settings.results if settings else "results")
    state = options.state or Path(settings.state if settings else "state")
    rows = [*finished(results, settings), *saved(state, settings), *cached(state)]
    if not rows:
        print(f"nothing in {results} or {state} yet")
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.kind:<8}  {row.name:<{width}}  {readable_size(row.size):>9}  {row.remark}")


def add_clean(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 clean``."""
    parser.description = (
        "Remove training states that none of the given configurations refers to, after asking. Give every "
        "configuration that uses the state folder. States in use, results and caches are not touched."
    )
    parser.epilog = "Example:\n  dplm2 clean config.yaml ablations.yaml"
    parser.add_argument("configurations", nargs="+", metavar="CONFIG", help="configuration files, each read by itself")
    parser.add_argument("--state", type=Path, metavar="DIR", help="default: that of the first configuration")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run_clean)


def _run_clean(options: argparse.Namespace) -> None:
    configurations = [load([file]) for file in options.configurations]
    root = options.state or Path(configurations[0].state)
    found = unreferred(root, configurations)
    if not found:
        print(f"{root}: every training state is referred to, in use, or of unrecorded settings; nothing to remove")
        return
    for state in found:
        print(f"{state.folder}  {readable_size(state.size)}  {_progress(state.folder)}")
    if not (
        options.yes or _agreed(f"Remove these {len(found)} ({readable_size(sum(state.size for state in found))})?")
    ):
        print("nothing was removed")
        return
    for state in found:
        print(f"{'removed' if remove(state) else 'kept, now in use:'} {state.folder}")


def _agreed(question: str) -> bool:
    print(f"{question} [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
