"""``dplm2 status``: finished artifacts and the progress of training."""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from dplm2.core.artifacts import RUN_FILE, read_json
from dplm2.core.errors import DPLM2Error
from dplm2.core.locks import is_held

STAGES = ("structures", "tokenizers", "tokens", "models", "samples", "evaluation", "report")


def finished(results: Path) -> Iterator[tuple[str, str, str]]:
    """Stage, artifact and a remark for each folder of results with a ``run.json``."""
    for stage in STAGES:
        for record in sorted((results / stage).rglob(RUN_FILE)):
            try:
                run = read_json(record)
                remark = f"{run['wall_seconds']:.0f} s on {run['device']}"
            except (DPLM2Error, ValueError, KeyError, TypeError):
                remark = "unreadable run.json"
            yield stage, str(record.parent.relative_to(results / stage)), remark


def unfinished(state: Path) -> Iterator[tuple[str, str]]:
    """Training progress for each saved state: step, last loss, and whether a process is running."""
    for pointer in sorted(state.rglob("latest.json")):
        folder = pointer.parent
        try:
            newest = read_json(pointer)
            record = read_json((folder / newest["file"]).with_suffix(".json"))
            label, step = record.get("label", "training"), newest["step"]
        except (DPLM2Error, ValueError, KeyError, TypeError, AttributeError):
            yield str(folder.relative_to(state)), "unreadable record"
            continue
        remark = f"{label}: step {step} saved"
        loss = _last_loss(folder / "metrics.csv")
        if loss is not None:
            remark += f", loss {loss}"
        yield str(folder.relative_to(state)), remark + (", running" if is_held(folder / "lock") else "")


def _last_loss(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            losses = [row["loss"] for row in csv.DictReader(stream) if row.get("loss")]
        return f"{float(losses[-1]):.4g}" if losses else None
    except (OSError, ValueError, csv.Error):
        return None


def add_status(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 status``."""
    parser.description = "List finished artifacts and the progress of training runs with saved state."
    parser.epilog = "To list what a run would still do: snakemake --dry-run --quiet rules"
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--state", type=Path, default=Path("state"), metavar="DIR", help="default: state")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    rows = [("finished", f"{stage}/{name}", remark) for stage, name, remark in finished(options.results)]
    rows += [("saved", name, remark) for name, remark in unfinished(options.state)]
    if not rows:
        print(f"nothing in {options.results} or {options.state} yet")
        return
    width = max(len(name) for _, name, _ in rows)
    for kind, name, remark in rows:
        print(f"{kind:<8}  {name:<{width}}  {remark}")
