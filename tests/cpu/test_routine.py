"""The measured choice of a library, and its cache."""

import fcntl
import json

import pytest
import torch

from dplm2.cpu import routine
from dplm2.cpu.kernels import KERNELS

FASTER_BY_ONE_DNN = {"onednn": 1.0, "torch": 2.0}


@pytest.fixture
def measurements(tmp_path, monkeypatch) -> list[tuple]:
    """Counts measurements, which find oneDNN faster; the cache is empty."""
    if routine.torch_private.has_one_dnn(torch.float32) is False:
        pytest.skip("this CPU or release of torch has no oneDNN")
    made = []

    def measure(dtype, product):
        made.append((dtype, product))
        return dict(FASTER_BY_ONE_DNN)

    monkeypatch.setenv("DPLM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(routine.VARIABLE, raising=False)
    monkeypatch.setattr(routine, "measure", measure)
    routine.faster_library.cache_clear()
    yield made
    routine.faster_library.cache_clear()


def choose_in_a_new_process(**arguments):
    routine.faster_library.cache_clear()
    return routine.routine(torch.float32, **arguments)


def test_each_product_is_measured_once_per_machine(measurements, tmp_path):
    for _ in range(2):
        assert {product: choose_in_a_new_process(product=product) for product in KERNELS} == dict.fromkeys(
            KERNELS, "onednn"
        )
    assert [product for _, product in measurements] == list(KERNELS)
    written = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "products").glob("*.json")]
    assert {entry["product"] for entry in written} == set(KERNELS)
    assert all(entry["threads"] == torch.get_num_threads() and entry["processor"] for entry in written)


def test_the_cached_choice_is_kept_even_if_a_measurement_would_differ(measurements, monkeypatch):
    assert choose_in_a_new_process() == "onednn"
    monkeypatch.setattr(routine, "measure", lambda *_: {"onednn": 2.0, "torch": 1.0})
    assert choose_in_a_new_process() == "onednn"
    monkeypatch.setattr(routine, "processor", lambda: "another")
    assert choose_in_a_new_process() == "torch"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"library": "abacus"}'])
def test_a_broken_cache_is_measured_again_and_repaired(measurements, tmp_path, content):
    choose_in_a_new_process()
    (path,) = (tmp_path / "cache" / "products").glob("*.json")
    path.write_text(content)
    assert choose_in_a_new_process() == choose_in_a_new_process() == "onednn"
    assert len(measurements) == 2


def test_a_cache_that_cannot_be_written_is_no_error(measurements, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DPLM2_CACHE", str(tmp_path / "file"))
    assert choose_in_a_new_process() == "onednn"
    assert len(measurements) == 1


def test_a_locked_cache_is_no_error(measurements, tmp_path, monkeypatch):
    monkeypatch.setattr(routine, "_WAIT_SECONDS", 0.0)
    (tmp_path / "cache" / "products").mkdir(parents=True)
    with (tmp_path / "cache" / "products" / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert choose_in_a_new_process() == "onednn"


def test_the_environment_overrides_the_choice(measurements, monkeypatch):
    for library in ("torch", "onednn"):
        monkeypatch.setenv(routine.VARIABLE, library)
        assert {choose_in_a_new_process(product=product) for product in KERNELS} == {library}
    assert not measurements


@pytest.mark.parametrize(
    ("product", "speedup", "library"),
    [
        ("linear", 0.9, "torch"),
        ("linear", 1.0, "onednn"),
        ("weight_gradient", 1.1, "torch"),
        ("weight_gradient", 1.3, "onednn"),
        ("batched", 1.1, "torch"),
        ("batched", 2.0, "onednn"),
    ],
)
def test_one_dnn_must_be_faster_where_weights_are_not_prepacked(product, speedup, library):
    assert routine.choose(product, {"onednn": 1.0, "torch": speedup}) == library


@pytest.mark.parametrize("product", KERNELS)
def test_measuring_changes_nothing(product):
    if not routine.torch_private.has_one_dnn(torch.float32):
        pytest.skip("this CPU or release of torch has no oneDNN")
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    times = routine.measure(torch.float32, product)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and torch.get_num_threads() == threads
    assert set(times) == {"onednn", "torch"} and all(0 < milliseconds < 1000 for milliseconds in times.values())
