"""A few broken inputs of every kind: the short form of ``python -m tests.fuzz``."""

from tests.fuzz import fuzz, kinds

FILES = 25


def test_broken_files_are_read_or_refused(tmp_path):
    for kind in kinds(tmp_path):
        outcome = fuzz(kind, FILES, tmp_path, seed=1)
        assert not outcome.tracebacks, outcome.tracebacks[0]
        assert outcome.read + outcome.refused == FILES, kind.name
