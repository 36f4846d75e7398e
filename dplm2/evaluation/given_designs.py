"""Designs made by any program, as samples: structures and sequences from files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dplm2.core.artifacts import RunRecord
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import clean_sequence
from dplm2.core.names import file_names, numbered
from dplm2.generation.designs import TABLE_FILE, write_designs
from dplm2.generation.inputs import Protein, content_of, read_proteins
from dplm2.generation.samples import SAMPLES_FILE, write_rows
from dplm2.settings.generation import TaskName

COMMAND = "evaluate designs"
PROBLEM = "designs"


def import_designs(sources: Sequence[Path], out: Path, model: str, task: TaskName | None = None) -> TaskName:
    """Write designs as generation writes its samples, unless that is done.

    Parameters
    ----------
    sources
        FASTA files, structure files, archives or folders of them, or CSV tables with the columns ``id``, ``sequence``
        and ``file`` (a structure, relative to the table; either of the two may be empty).
    out
        Folder for ``samples.parquet`` and the rest.
    model
        Name in the tables.
    task
        What to compare; by default ``sequence`` for designs without structure, ``backbone`` if no structure has a
        sequence (all residues of a chain are the same), and otherwise ``co-generation``.

    Returns
    -------
    str
        The task.

    Raises
    ------
    DPLM2Error
        If a source cannot be read or contains no design.
    """
    designs = [design for source in sources for design in _designs_of(source)]
    task = task or _task_of(designs)
    if task != "sequence" and all(design.backbone is None for design in designs):
        raise DPLM2Error(f"{', '.join(map(str, sources))}: no structure; designs of the task {task} need one")
    record = RunRecord(COMMAND, {"task": task, "model": model}, {str(path): content_of(path) for path in sources})
    if record.is_of(out) and (out / SAMPLES_FILE).is_file() and (out / TABLE_FILE).is_file():
        return task
    names = file_names(numbered([design.name for design in designs]))
    rows = [_row(name, design, model, task) for name, design in zip(names, designs, strict=True)]
    record.supersede(out)
    write_designs(out, rows, "none" if task == "sequence" else "pdb")
    write_rows(out / SAMPLES_FILE, rows)
    record.write(out, samples=len(rows))
    return task


def _designs_of(source: Path) -> list[Protein]:
    found = list(_table(source)) if source.suffix.lower() == ".csv" else read_proteins([source])
    if not found:
        raise DPLM2Error(f"{source}: contains no design")
    return found


def _table(path: Path) -> Iterator[Protein]:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DPLM2Error(f"{path}: not a readable CSV file ({' '.join(str(error).split())})") from error
    if "sequence" not in table and "file" not in table:
        raise DPLM2Error(f"{path}: has no column sequence or file; its columns are {', '.join(table)}")
    for number, row in enumerate(table.to_dict("records"), 1):
        name = row.get("id") or f"row-{number}"
        place = f"{path}, row {number} ({name})"
        sequence, file = row.get("sequence", "").strip(), row.get("file", "").strip()
        if not sequence and not file:
            raise DPLM2Error(f"{place}: neither a sequence nor a file")
        backbone = None
        if file:
            own, backbone = _single_chain(path.parent / file, place)
        if sequence:
            sequence = clean_sequence(sequence, place)
        elif file:
            sequence = own
        if backbone is not None and len(sequence) != len(backbone):
            raise DPLM2Error(f"{place}: {len(sequence)} letters for a structure of {len(backbone)} residues")
        yield Protein(name, sequence, backbone)


def _single_chain(path: Path, place: str) -> tuple[str, np.ndarray]:
    chains = read_proteins([path])
    if len(chains) != 1 or chains[0].backbone is None:
        raise DPLM2Error(f"{place}: {path.name} must hold one protein chain, it has {len(chains)}; write {path.name}:A")
    return chains[0].sequence, chains[0].backbone


def _task_of(designs: Sequence[Protein]) -> TaskName:
    structures = [design for design in designs if design.backbone is not None]
    if not structures:
        return "sequence"
    alike = all(len(set(design.sequence)) == 1 < len(design.sequence) for design in structures)
    return "backbone" if alike else "co-generation"


def _row(name: str, design: Protein, model: str, task: TaskName) -> dict[str, Any]:
    backbone = None if design.backbone is None or task == "sequence" else np.asarray(design.backbone, dtype=np.float32)
    return {
        "sample_id": name,
        "model": model,
        "task": task,
        "problem": PROBLEM,
        "seed": 0,
        "length": len(design.sequence),
        "sequence": None if task == "backbone" else design.sequence,
        "structure_tokens": None,
        "backbone": None if backbone is None else backbone.ravel().tolist(),
        "tokenizer_plddt": None,
        "log_likelihood": None,
        "steps": 0,
        "settings": "{}",
    }
