"""Fixtures shared by all tests: where the recorded values and the corpus lie, if they are there at all."""

import os
from pathlib import Path

import pytest

# Set before torch is loaded: the tests' networks are tiny, and several test processes share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

SHARED = Path(os.environ.get("DPLM2_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(autouse=True)
def _the_same_draws_in_any_order() -> None:
    """A test draws the same numbers whichever tests its process ran before (DPLM2_TEST_SEED: other numbers).

    Networks of the fixtures are drawn with seed 0, and others must not be the same.
    """
    torch.manual_seed(int(os.environ.get("DPLM2_TEST_SEED", "1")))


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name}/ of the shared test data (set DPLM2_SHARED to its folder)")
    return folder


@pytest.fixture(scope="session")
def fixtures_folder() -> Path:
    """Recorded inputs and outputs of the authors' implementation and of other programs."""
    return _folder("fixtures")


@pytest.fixture(scope="session")
def cases_folder() -> Path:
    """Small inputs that each stand for a kind of trouble; what is expected of them stands in their MANIFEST.csv."""
    return _folder("cases")


@pytest.fixture(scope="session")
def corpus_folder() -> Path:
    """Real structures: chains to train on, the CAMEO 2022 test set, awkward raw files, the motif benchmark."""
    return _folder("corpus")
