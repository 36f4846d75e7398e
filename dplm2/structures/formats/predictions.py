"""Telling predicted models from experimental structures by what their files say."""

import re

PROGRAM = re.compile(
    r"alpha ?fold|colab ?fold|esm-?fold|open-?fold|omega ?fold|rose?ttafold|uni-fold|helixfold|"
    r"\bboltz(?:-?[12])?\b|\bchai-1\b|\bprotenix\b",
    re.I,
)
NO_EXPERIMENT = re.compile(r"theoretical|computational|predict|in silico", re.I)
# Lines of a PDB header that may name a program; names of authors stand elsewhere.
PDB_RECORDS = re.compile(r"^(?:TITLE|REMARK|HEADER|COMPND|SOURCE)(?!.{6}AUTH).*$", re.M)
# OpenFold's writer, ESMFold's therefore too, names the templates of a model.
PARENT = re.compile(r"^PARENT +\S", re.M)


def by_method(method: str) -> bool:
    """Whether a method is none of the experimental ones."""
    return NO_EXPERIMENT.search(method) is not None or names_program(method)


def names_program(text: str) -> bool:
    """Whether a text names a program that predicts structures."""
    return PROGRAM.search(text) is not None


def by_pdb_header(head: str) -> bool:
    """Whether the header of a PDB file says that it is a prediction.

    Ask only where it names no experiment: the remarks of an experimental entry may well name the model that phased it.
    """
    if PARENT.search(head):
        return True
    return any("THEORETICAL MODEL" in line.upper() or names_program(line) for line in PDB_RECORDS.findall(head))
