"""Broken files never cause a traceback, a hang, or a chain with non-finite coordinates.

A small number of files; ``benchmarks/structures.py`` runs thousands.
"""

from tests.structures import fuzz
from tests.structures.made import settings

FILES = 150


def test_broken_files_become_chains_or_rejects(corpus_folder):
    filters = {"min_length": 5, "max_length": 2000, "min_observed_fraction": 0.1}
    outcomes = fuzz.run(fuzz.broken_files(fuzz.seed_files(corpus_folder), FILES), settings(filters=filters))
    assert outcomes["chain"] > 0.1 * FILES
    assert outcomes["unreadable"] > 0.1 * FILES
