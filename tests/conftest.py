"""Fixtures shared by all tests: recorded values and corpus."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before torch is imported: the tests' networks are tiny, and several test processes share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import load_file

from tests.goldens.unpack import unpack

NIGHTLY = "DPLM2_NIGHTLY"
IS_NIGHT = NIGHTLY in os.environ
SHARED = Path(os.environ.get("DPLM2_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked as nightly by day."""
    for item in items:
        if not IS_NIGHT and item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.skip(reason=f"takes long; runs with {NIGHTLY}=1"))


@pytest.fixture(autouse=True)
def _the_same_draws_in_any_order() -> None:
    """Random numbers of a test do not depend on earlier tests in its process (DPLM2_TEST_SEED selects other numbers).

    Networks of fixtures use seed 0, and others must differ from them.
    """
    torch.manual_seed(int(os.environ.get("DPLM2_TEST_SEED", "1")))


def _folder(name: str) -> Path:
    if not (SHARED / name).is_dir():
        _skip(f"{name}/")
    return SHARED / name


def _skip(what: str) -> None:
    pytest.skip(f"needs {what} (set DPLM2_SHARED to the folder of the shared test data)")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> tuple[Path, bool]:
    """The folder of recordings, and whether it is the full set or the repository's goldens."""
    full = SHARED / "fixtures"
    if full.is_dir():
        return full, True
    return unpack(tmp_path_factory.mktemp("goldens")), False


@pytest.fixture(scope="session")
def recorded(recordings) -> Callable[[str], Path]:
    """The path of a file or folder recorded with the authors' implementation or another program, by name.

    Without the full set, tests of recordings that the goldens lack are skipped.
    """
    folder, _ = recordings

    def path_of(name: str) -> Path:
        if not (folder / name).exists():
            _skip(f"{name} of the full set of recordings")
        return folder / name

    return path_of


@pytest.fixture(scope="session")
def recorded_tensors(recorded, recordings) -> Callable[[str], dict[str, torch.Tensor]]:
    """The tensors of a recorded safetensors file, by name without the suffix."""
    _, complete = recordings

    def tensors_of(name: str) -> dict[str, torch.Tensor]:
        tensors = load_file(recorded(f"{name}.safetensors"))
        return tensors if complete else _Selection(name, tensors)

    return tensors_of


class _Selection(dict):
    """The tensors of a recording that the goldens contain; tests that need others are skipped."""

    def __init__(self, recording: str, tensors: dict[str, torch.Tensor]):
        super().__init__(tensors)
        self.recording = recording

    def __missing__(self, name: str) -> None:
        _skip(f"{name} in {self.recording} of the full set of recordings")


@pytest.fixture(scope="session")
def cases_folder() -> Path:
    """Small inputs, one per kind of problem, with the expected results in their MANIFEST.csv."""
    return _folder("cases")


@pytest.fixture(scope="session")
def corpus_folder() -> Path:
    """Real structures: training chains, the CAMEO 2022 test set, unusual raw files, the motif benchmark."""
    return _folder("corpus")


@pytest.fixture(scope="session")
def real_chains() -> list[Path]:
    """BinaryCIF files of real chains: every hundredth of the corpus, or those of the demo."""
    demo = Path(__file__).parents[1] / "data" / "demo" / "train"
    return sorted((SHARED / "corpus" / "train").glob("*.bcif.gz"))[::100] or sorted(demo.glob("*.bcif.gz"))
