"""Two commands that write into one folder: the second is refused, unless both belong together."""

import multiprocessing
import time

import pytest

from dplm2.core import locks
from dplm2.core.errors import DPLM2Error
from dplm2.core.locks import FOLDER_LOCK, writing_into

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.0)


def _hold(folder, shared, held):
    with writing_into(folder, "generate folding", shared):
        held.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Starts another process that holds the lock of a folder; returns its id."""
    processes = []

    def start(shared=None):
        held = FORK.Event()
        processes.append(FORK.Process(target=_hold, args=(tmp_path / "out", shared, held)))
        processes[-1].start()
        assert held.wait(10)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_second_writer_is_refused_and_told_the_first(tmp_path, holder):
    process = holder()
    with (
        pytest.raises(DPLM2Error, match=rf"out: process {process.pid} on .* \(generate folding\) is writing into"),
        writing_into(tmp_path / "out", "generate folding"),
    ):
        pass


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("a", None), (None, "a")])
def test_writer_with_other_settings_is_refused(tmp_path, holder, first, second):
    holder(first)
    with pytest.raises(DPLM2Error, match="is writing into"), writing_into(tmp_path / "out", "clean", second):
        pass


def test_jobs_of_one_dataset_may_write_concurrently(tmp_path, holder):
    holder("same")
    holder("same")
    with writing_into(tmp_path / "out", "structures clean", "same"):
        assert (tmp_path / "out" / FOLDER_LOCK).exists()


def test_killed_holder_releases_the_lock(tmp_path, holder):
    process = holder()
    process.kill()
    process.join()
    with writing_into(tmp_path / "out", "generate folding"):
        pass


def test_last_holder_removes_the_lock_file(tmp_path):
    with writing_into(tmp_path, "clean", "a"):
        with writing_into(tmp_path, "clean", "a"):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [FOLDER_LOCK]
    assert not list(tmp_path.iterdir())


def test_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DPLM2Error, match=r"out: not a folder"), writing_into(tmp_path / "out" / "deeper", "clean"):
        pass
