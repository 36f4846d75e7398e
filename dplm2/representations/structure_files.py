"""Structure files of the proteins of a task table, by their names."""

import re
from collections.abc import Mapping
from pathlib import Path

from dplm2.core.errors import DPLM2Error
from dplm2.core.text import shown
from dplm2.representations.tasks import Task

_OF_ALPHAFOLD = re.compile(r"AF-([A-Za-z0-9]+)-F1-model_v\d+")


def with_structures(task: Task, folder: Path) -> Task:
    """The task with the column ``structure``: the file of the folder that has a protein's name.

    Names of files count up to their first dot, and those of AlphaFold's database (``AF-P12345-F1-model_v4.cif``) by the
    accession.

    Raises
    ------
    DPLM2Error
        If a protein has no file; the message names one.
    """
    files = _by_name(folder)
    rows = task.rows.copy()
    for column in task.name_columns:
        names = [name.partition("~")[0] for name in rows[column]]
        if missing := [name for name in names if name not in files]:
            raise DPLM2Error(f"{folder}: no structure file of {shown(missing[0])} ({len(set(missing))} missing)")
        rows[f"structure{column.removeprefix('id')}"] = [str(files[name].absolute()) for name in names]
    return Task(task.kind, rows, task.splits, task.labels)


def _by_name(folder: Path) -> Mapping[str, Path]:
    if not folder.is_dir():
        raise DPLM2Error(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.name.split(".")[0]
        of_alphafold = _OF_ALPHAFOLD.fullmatch(name)
        found.setdefault(of_alphafold[1] if of_alphafold else name, path)
    return found
