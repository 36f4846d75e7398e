"""The workflow's resource requests for each job: memory and GPUs, from the sizes in the configuration."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dplm2.resources import ESM2, MINUTES, ON_NETWORKS, launcher, needs, profile_resources, requested, shape_of
from dplm2.settings import Configuration, load
from dplm2.shared_start import OWNER
from dplm2.stages import STAGES

ROOT = Path(__file__).parents[1]
MODEL_RULES = (
    "warm_up_model", "train_model", "generate", "evaluate_likelihood", "evaluate_samples", "probe_representations",
    "score_proteingym",
)  # fmt: skip


SCRATCH = {
    "network": {"hidden_size": 128, "layers": 3, "heads": 4, "intermediate_size": 512},
    "warmup": {"source": "scratch"},
}


def demo(**changes) -> Configuration:
    """The demo's configuration, with a model that is trained from random weights."""
    return load([ROOT / "config.yaml", {"models": {"demo": SCRATCH}}, changes])


def sized(millions: int) -> dict:
    """A model with ESM-2's architecture."""
    return {"network": dict(zip(("hidden_size", "layers", "intermediate_size"), ESM2[millions], strict=True))}


def first(settings: Configuration, rule: str) -> str | None:
    """The name of an entry for a rule's job; jobs that use a model are identified by its name."""
    kind = "models" if rule in MODEL_RULES else STAGES[rule].kind
    entries = getattr(settings, kind)
    return next(iter(entries)) if isinstance(entries, dict) else None


def test_every_rule_has_time_and_memory():
    assert set(MINUTES) == set(STAGES) >= ON_NETWORKS
    settings = demo()
    for rule in STAGES:
        need = needs(settings, rule, first(settings, rule))
        assert 1500 < need.memory_mb < 16_000 and MINUTES[rule] > 0


@pytest.mark.parametrize("rule", STAGES)
@pytest.mark.parametrize(("device", "expected"), [("cpu", 0), ("mps", 0), ("cuda", 1), ("auto", 1)])
def test_gpus_are_requested_only_for_networks_on_gpus(rule, device, expected):
    settings = demo(device=device)
    assert needs(settings, rule, first(settings, rule)).gpus == (expected if rule in ON_NETWORKS else 0)


def test_training_requests_a_gpu_per_device():
    training = {"training": {"devices": 4, "accumulate": 8}}
    settings = demo(device="cuda", models={"demo": training}, tokenizers={"demo": training})
    for rule in ("train_model", "train_tokenizer"):
        assert needs(settings, rule, "demo").gpus == 4
    for rule in ("generate", "encode_tokens", "evaluate_likelihood"):
        assert needs(settings, rule, "demo").gpus == 1
    on_cpu = demo(device="cpu", models={"demo": training})
    assert needs(on_cpu, "train_model", "demo").gpus == 0


@pytest.mark.parametrize(("batches", "gpus"), [(1, 1), (2, 2), (6, 6), (8, 8), (12, 6), (16, 8), (17, 1)])
def test_auto_requests_gpus_that_divide_the_batches(batches, gpus):
    training = {"training": {"devices": "auto", "accumulate": batches}}
    assert needs(demo(models={"demo": training}), "train_model", "demo").gpus == gpus
    assert needs(demo(device="cpu", models={"demo": training}), "train_model", "demo").gpus == 0


@pytest.mark.parametrize("name", ["paper_150m", "paper_650m", "paper_3b", "paper_bit_650m", "ablations"])
def test_trainings_of_the_paper_get_eight_gpus(name):
    """DPLM-2, section 3.3: eight A100."""
    settings = load(ROOT / "config" / f"{name}.yaml")
    for rule, entries in (("train_tokenizer", settings.tokenizers), ("train_model", settings.models)):
        assert {needs(settings, rule, entry).gpus for entry in entries} == {8}


def test_memory_grows_with_the_number_of_processes():
    one, four = (
        demo(models={"demo": {"training": {"devices": count, "accumulate": 4}}}, device="cpu") for count in (1, 4)
    )
    assert needs(four, "train_model", "demo").memory_mb == pytest.approx(
        4 * needs(one, "train_model", "demo").memory_mb, abs=4
    )


def test_sequence_stage_requests_a_gpu_per_device():
    training = {"devices": 2, "accumulate": 2}
    settings = demo(device="cuda", models={"demo": {"warmup": {"sequence_training": training}}})
    assert needs(settings, "warm_up_model", "demo").gpus == 2
    assert needs(settings, "train_model", "demo").gpus == 1


@pytest.mark.parametrize("rule", MODEL_RULES)
def test_larger_model_requests_more_memory(rule):
    larger = [demo(models={"demo": sized(millions)}) for millions in ESM2]
    needed = [needs(settings, rule, "demo").memory_mb for settings in (demo(), *larger)]
    assert needed == sorted(needed) and len(set(needed)) == len(needed), needed
    paper = load(ROOT / "config" / "paper_650m.yaml")
    assert needs(paper, rule, first(paper, rule)).memory_mb > needed[0]


def test_memory_includes_weights_gradients_and_moments():
    """650M in fp32: 2.6 GB of weights, and four times that if all are trained."""
    full = demo(models={"demo": sized(650)})
    gigabytes = needs(full, "train_model", "demo").memory_mb / 1000
    assert 4 * 2.6 < gigabytes < 40
    assert needs(demo(models={"demo": sized(650) | {"lora": {"enabled": True}}}), "train_model", "demo").memory_mb < (
        needs(full, "train_model", "demo").memory_mb
    )
    assert 2.6 < needs(full, "generate", "demo").memory_mb / 1000 < 4 * 2.6


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"warmup": {"source": "facebook/esm2_t30_150M_UR50D"}}, 150),
        ({"warmup": {"source": "airkingbd/dplm_650m"}}, 650),
        ({"warmup": {"source": "airkingbd/dplm_3b"}}, 3000),
        ({"pretrained": "./models/dplm2_650m"}, 650),
        ({"warmup": {"source": "esm2_t6_8M_UR50D"}}, 8),
        ({"warmup": {"source": "some/folder"}}, 650),  # unknown size: a generous request
    ],
)
def test_model_size_is_known_by_name(model, size):
    settings = load({"models": {"m": {"tokenizer": "t", **model}}})
    assert shape_of(settings.models["m"], settings) == ESM2[size]


@pytest.mark.parametrize("key", ["pretrained", "source"])
def test_a_folder_says_how_large_its_model_is(tmp_path, key):
    shape = {"hidden_size": 96, "num_hidden_layers": 5, "intermediate_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    model = {"pretrained": str(tmp_path)} if key == "pretrained" else {"warmup": {"source": str(tmp_path)}}
    settings = load({"models": {"m": {"tokenizer": "t", **model}}})
    assert shape_of(settings.models["m"], settings) == (96, 5, 300)
    (tmp_path / "config.json").write_text('{"hidden_size": "wide"}')
    assert shape_of(settings.models["m"], settings) == ESM2[650]


def test_second_stage_has_the_size_of_its_source():
    settings = demo(models={"second": {"tokenizer": "demo", "datasets": ["demo"], "warmup": {"model": "demo"}}})
    assert shape_of(settings.models["second"], settings) == (128, 3, 512)


@pytest.mark.parametrize("change", [{"token_budget": 40_000}, {"precision": "fp32"}])
def test_larger_batch_requests_more_memory(change):
    small = demo(models={"demo": {"training": {"precision": "bf16"}}})
    large = demo(models={"demo": {"training": {"precision": "bf16"} | change}})
    assert needs(large, "train_model", "demo").memory_mb > needs(small, "train_model", "demo").memory_mb
    lean = demo(models={"demo": {"training": {"precision": "bf16", "activation_checkpointing": True} | change}})
    assert needs(lean, "train_model", "demo").memory_mb < needs(large, "train_model", "demo").memory_mb


PROFILE = {"slurm_partition": "cpu", "gpu_partition": "gpu"}


def asked(settings: Configuration, rule: str, attempt: int = 1, profile: dict[str, str] = PROFILE) -> dict:
    need = needs(settings, rule, first(settings, rule))
    found = requested(need, MINUTES[rule], attempt, settings.threads, profile)
    return {name: value for name, value in found.items() if value is not None}


def spread(nodes: int, devices: int, device: str) -> Configuration:
    training = {"nodes": nodes, "devices": devices, "accumulate": nodes * devices}
    return demo(device=device, threads=3, models={"demo": {"training": training}})


@pytest.mark.parametrize("rule", STAGES)
@pytest.mark.parametrize("device", ["cpu", "mps", "cuda", "auto"])
def test_only_gpu_jobs_use_the_gpu_partition(rule, device):
    found = asked(demo(device=device), rule)
    assert found["slurm_partition"] == ("gpu" if found.get("gpu") else "cpu")
    assert "slurm_partition" not in asked(demo(device=device), rule, profile={})


def test_memory_and_time_grow_with_the_attempt():
    first_try, third = (asked(demo(), "train_model", attempt) for attempt in (1, 3))
    changed = {name for name in first_try if first_try[name] != third[name]}
    assert changed == {"mem_mb", "runtime"}
    assert all(third[name] == 3 * first_try[name] for name in changed)


@pytest.mark.parametrize(
    ("nodes", "devices", "device", "expected"),
    [
        (1, 1, "cpu", {}),
        (1, 4, "cpu", {"cpus_per_task": 12}),
        (1, 4, "cuda", {"gpu": 4, "cpus_per_gpu": 3}),
        (2, 1, "cpu", {"mpi": "srun", "tasks": 2}),
        (2, 4, "cpu", {"mpi": "srun", "tasks_per_node": 4}),
        (2, 1, "cuda", {"gres": "gpu:1", "mpi": "srun", "tasks": 2, "tasks_per_gpu": 0}),
        (2, 4, "cuda", {"gres": "gpu:4", "mpi": "srun", "tasks_per_node": 4, "tasks_per_gpu": 0}),
    ],
)
def test_slurm_options_of_jobs(nodes, devices, device, expected):
    settings = spread(nodes, devices, device)
    found = asked(settings, "train_model")
    assert found.pop("nodes") == nodes
    assert found.pop("mem_mb") == needs(settings, "train_model", "demo").memory_mb
    assert found.pop("runtime") == MINUTES["train_model"] and found.pop("slurm_partition")
    assert found == expected
    assert asked(settings, "generate").get("gpu") == (1 if device == "cuda" else None)


def test_gpu_model_is_requested_only_with_gpus():
    typed = {**PROFILE, "gpu_model": "h100"}
    assert asked(spread(1, 4, "cuda"), "train_model", profile=typed)["gpu_model"] == "h100"
    assert asked(spread(2, 4, "cuda"), "train_model", profile=typed)["gres"] == "gpu:h100:4"
    # The executor gives a GPU to any job that names a model.
    for settings in (spread(1, 1, "cpu"), spread(2, 1, "cpu")):
        assert not {"gpu_model", "gres"} & set(asked(settings, "train_model", profile=typed))
    assert "gpu_model" not in asked(spread(1, 1, "cuda"), "clean_structures", profile=typed)


def test_memory_is_per_node():
    one, two = (needs(spread(nodes, 4, "cuda"), "train_model", "demo") for nodes in (1, 2))
    assert one.memory_mb == two.memory_mb


def test_srun_is_used_only_on_several_nodes():
    for rule in ("train_model", "train_tokenizer", "warm_up_model"):
        assert launcher(needs(demo(), rule, "demo"), 3) == ["python", "-m", "dplm2"]
    several = launcher(needs(spread(1, 4, "cuda"), "train_model", "demo"), 3)
    assert several == ["env", "-u", OWNER, "python", "-m", "dplm2"]
    command = launcher(needs(spread(2, 4, "cuda"), "train_model", "demo"), 3)
    assert command[:4] == ["srun", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=3"]
    assert command[-3:] == ["python", "-m", "dplm2.training.srun"]


def test_auto_on_several_nodes_divides_the_batches():
    training = {"training": {"devices": "auto", "nodes": 2, "accumulate": 12}}
    need = needs(demo(device="cuda", models={"demo": training}), "train_model", "demo")
    assert (need.gpus, need.nodes) == (6, 2)


def test_resources_of_the_profile():
    assert profile_resources(None) == {}
    default = SimpleNamespace(args=["slurm_account=", "slurm_partition='all'", "gpu_partition=gpu-a100"])
    assert profile_resources(default) == {"slurm_account": "", "slurm_partition": "all", "gpu_partition": "gpu-a100"}
