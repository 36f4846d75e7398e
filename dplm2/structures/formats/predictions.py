"""Distinguishing predicted models from experimental structures by the content of their files."""

import re

PROGRAM = re.compile(
    r"alpha ?fold|colab ?fold|esm-?fold|open-?fold|omega ?fold|rose?ttafold|uni-fold|helixfold|"
    r"\bboltz(?:-?[12])?\b|\bchai-1\b|\bprotenix\b",
    re.I,
)
NO_EXPERIMENT = re.compile(r"theoretical|computational|predict|in silico", re.I)
# Lines of a PDB header that may name a program; author names are in other lines.
PDB_RECORDS = re.compile(r"^(?:TITLE|REMARK|HEADER|COMPND|SOURCE)(?!.{6}AUTH).*$", re.M)
# OpenFold's writer (and therefore ESMFold's) lists the templates of a model.
PARENT = re.compile(r"^PARENT +\S", re.M)


def by_method(method: str) -> bool:
    """Whether a method is not experimental."""
    return NO_EXPERIMENT.search(method) is not None or names_program(method)


def names_program(text: str) -> bool:
    """Whether a text names a structure prediction program."""
    return PROGRAM.search(text) is not None


def by_pdb_header(head: str) -> bool:
    """Whether a PDB header indicates a prediction.

    Only for headers without an experimental method: the remarks of an experimental entry may name the model used for
    phasing.
    """
    if PARENT.search(head):
        return True
    return any("THEORETICAL MODEL" in line.upper() or names_program(line) for line in PDB_RECORDS.findall(head))
