"""Generate a folder of samples batch by batch; an interrupted run resumes with the finished samples."""

import json
import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dplm2.core import parquet
from dplm2.core.artifacts import RunRecord, fingerprint, make_folder
from dplm2.core.errors import DPLM2Error, Preempted
from dplm2.core.hub import name_of
from dplm2.generation.contigs import reference_files
from dplm2.generation.designs import ENDINGS, FASTA_FILE, TABLE_FILE, remove_others, write_designs
from dplm2.generation.inputs import content_of
from dplm2.generation.model import DPLM2
from dplm2.generation.samples import (
    SAMPLES_FILE,
    STRUCTURES_FOLDER,
    TRAJECTORIES_FOLDER,
    Sample,
    write_rows,
    write_trajectory,
)
from dplm2.generation.task import Request
from dplm2.language.randomness import GENERATOR
from dplm2.settings.generation import GenerationSettings
from dplm2.training.signals import StopRequests
from dplm2.training.state import StateFolder

_log = logging.getLogger(__name__)
_DEFAULT_STATE = ".unfinished"
_CONTENTS = "dplm2_given"
WRITTEN = (SAMPLES_FILE, TABLE_FILE, FASTA_FILE)


def generate_folder(
    model: str | os.PathLike,
    out: str | os.PathLike,
    settings: GenerationSettings,
    *,
    seed: int = 0,
    chains: Sequence[Path] = (),
    tokenizer: str | os.PathLike | None = None,
    state: str | os.PathLike | None = None,
    model_name: str | None = None,
    device: str = "cpu",
    keep_finished: bool = False,
) -> list[int]:
    """Generate a task's samples and write them with ``run.json``.

    ``samples.parquet``, ``designs.csv``, ``designs.fasta``, ``structures/``, and ``trajectories/`` if asked for.

    Samples that an interrupted run finished are reused: a sample is identified by its id, the run's seed, the model,
    and the settings and inputs that affect it.

    Parameters
    ----------
    model, tokenizer
        Folders or hub ids.
    out
        Folder to write.
    settings, seed, chains
        The task.
    state
        Folder for finished samples of an unfinished run; ``out/.unfinished`` by default.
    model_name
        Value of the column ``model``; the folder's name by default.
    device
        Where the networks run.
    keep_finished
        If ``out`` already holds these samples, complete, leave it as it is.

    Returns
    -------
    list of int
        Residues of each sample.

    Raises
    ------
    DPLM2Error
        If an input cannot be used; the message names it, and nothing has run.
    Preempted
        If the process received a stop signal; finished samples are kept.
    """
    out, name = Path(out), model_name or name_of(model)
    opened = DPLM2.from_pretrained(model, tokenizer, device)
    settings = opened.settled(settings)
    described = {**settings.described, "seed": seed, "random_numbers": GENERATOR}
    record = RunRecord(f"generate {settings.task}", described, {}, device)
    record.inputs = _inputs(opened, settings, chains)
    if keep_finished and record.is_of(out) and all((out / file).is_file() for file in WRITTEN):
        print(f"samples: {out} (finished already)")
        return parquet.read_table(out / SAMPLES_FILE, ["length"])["length"].to_pylist()
    requests = opened.requests(settings, seed, chains)
    decisive = [record.inputs["model"], record.inputs.get("tokenizer"), settings.sampling, settings.trajectory, seed]
    decisive.append(GENERATOR)
    default_state = out / _DEFAULT_STATE
    folder = StateFolder(
        Path(state) if state is not None else default_state, fingerprint(decisive), f"samples of {out}"
    )
    with folder.locked():
        rows, seconds = _rows(opened, requests, settings, seed, out, folder.folder, name)
    record.supersede(out)
    make_folder(out / STRUCTURES_FOLDER)
    write_designs(out, rows, settings.format)
    # Samples of an interrupted run may have theirs in another format.
    kept = [f"{row['sample_id']}.{ending}" for row in rows if settings.trajectory for ending in ENDINGS.values()]
    remove_others(out / TRAJECTORIES_FOLDER, kept)
    write_rows(out / SAMPLES_FILE, rows)
    speed = _by_length(rows, seconds)
    record.write(out, samples=len(rows), residues=sum(row["length"] for row in rows), seconds_per_sample=speed)
    shutil.rmtree(folder.folder, ignore_errors=True)
    shutil.rmtree(default_state, ignore_errors=True)
    return [row["length"] for row in rows]


def _rows(
    model: DPLM2,
    requests: Sequence[Request],
    settings: GenerationSettings,
    seed: int,
    out: Path,
    state: Path,
    name: str,
) -> tuple[list[dict], dict[str, float]]:
    """Rows of all samples; those missing in ``state`` are generated and saved there batch by batch.

    Also the seconds per generated sample: those of its batch, divided in proportion to length.
    """
    contents = {request.sample_id: _content(request) for request in requests}
    rows = _finished_rows(state, contents)
    missing = [request for request in requests if request.sample_id not in rows]
    if rows:
        print(f"resuming: {len(rows)} of {len(requests)} samples are already finished")

    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def keep(samples: list[Sample]) -> None:
        nonlocal last
        elapsed, last = time.perf_counter() - last, time.perf_counter()
        residues = sum(sample.length for sample in samples)
        seconds.update({sample.sample_id: elapsed * sample.length / residues for sample in samples})
        batch = [sample.row(name) for sample in samples]
        for sample in samples:
            if sample.trajectory:
                ending = ENDINGS.get(settings.format, "bcif")
                write_trajectory(out / TRAJECTORIES_FOLDER / f"{sample.sample_id}.{ending}", sample)
        # After the trajectories: a sample whose row is saved is not generated again.
        batch_contents = {row["sample_id"]: contents[row["sample_id"]] for row in batch}
        write_rows(state / f"{fingerprint(batch_contents)}.parquet", batch, {_CONTENTS: json.dumps(batch_contents)})
        rows.update({row["sample_id"]: row for row in batch})

    with StopRequests() as stop:

        def before_step() -> None:
            if stop.received is not None:
                raise Preempted(f"stopped by {stop.received.name}: {len(rows)} of {len(requests)} samples are kept")

        if missing:
            model.run(missing, settings, seed, done=keep, before_step=before_step, progress=True)
    return [{**rows[request.sample_id], "model": name} for request in requests], seconds


def _by_length(rows: Sequence[dict], seconds: Mapping[str, float]) -> dict[str, list[float]]:
    """Number of samples generated by this run and their mean seconds, by length."""
    lengths = defaultdict(list)
    for row in rows:
        if row["sample_id"] in seconds:
            lengths[row["length"]].append(seconds[row["sample_id"]])
    return {str(length): [len(times), sum(times) / len(times)] for length, times in sorted(lengths.items())}


def _inputs(model: DPLM2, settings: GenerationSettings, chains: Sequence[Path]) -> dict[str, str]:
    inputs = {"model": model.fingerprint}
    if "structure" in settings.tracks:
        inputs["tokenizer"] = model.tokenizer.fingerprint
    references = []
    if settings.task == "scaffolding":
        references = reference_files(settings.problems, settings.references)
    inputs |= {str(given): content_of(given) for given in [*chains, *settings.problems, *references]}
    return inputs


def _content(request: Request) -> str:
    """Fingerprint of a sample's given tokens and steps."""
    conditioning = request.conditioning
    tokens = {track: [ids.tolist(), conditioning.fixed[track].tolist()] for track, ids in conditioning.tokens.items()}
    return fingerprint([tokens, conditioning.steps, conditioning.first_step])


def _finished_rows(folder: Path, contents: Mapping[str, str]) -> dict[str, dict]:
    """Rows of the finished samples whose inputs are those requested."""
    rows = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = parquet.read_table(path)
            saved_contents = json.loads(table.schema.metadata[_CONTENTS.encode()])
            kept = {
                row["sample_id"]: row
                for row in table.to_pylist()
                if contents.get(row["sample_id"]) == saved_contents[row["sample_id"]]
            }
        except (DPLM2Error, KeyError, TypeError, ValueError):
            _log.warning("%s: damaged, its samples are generated again", path)
            continue
        rows |= kept
    return rows
