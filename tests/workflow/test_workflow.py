"""The real Snakefile, end to end: results, reruns after changes, invalid input."""

import copy
import csv
import gzip
import hashlib
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from biotite.sequence import ProteinSequence
from biotite.structure.io import pdb

from dplm2.generation.contigs import reference_files
from dplm2.settings import loading
from tests.workflow.conftest import DEMO, ROOT, Workdir

# The tests that share a finished run are run by one process.
pytestmark = pytest.mark.workflow


def test_run_writes_report_and_summary(finished):
    results = finished.folder / "results"
    assert (results / "report" / "report.html").stat().st_size > 10_000
    with (results / "report" / "tables" / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["model", "task", "dataset", "metric", "value", "n", "backend"]
    assert {"co-generation", "folding", "inverse-folding", "scaffolding", "reconstruction", "likelihood"} <= {
        row["task"] for row in rows
    }
    assert all(row["backend"] == "self" for row in rows if row["metric"] == "sc_tm")
    metrics = {row["metric"] for row in rows}
    for suffix in ("untrained", "trained"):
        assert f"ca_rmsd_{suffix}" in metrics
        assert f"structure_cross_entropy_{suffix}" in metrics
    assert "sequence_cross_entropy_unigram" in metrics


def test_every_artifact_records_its_inputs(finished):
    """Each stage's record contains the hashes of the previous stage's outputs."""
    results = finished.folder / "results"
    for weights in results.glob("*/**/model.safetensors"):
        assert (weights.parent / "run.json").is_file(), weights

    def record(folder: str) -> dict:
        return json.loads((results / folder / "run.json").read_text())

    def sha256(file: str) -> str:
        return hashlib.sha256((results / file).read_bytes()).hexdigest()

    parts = [sha256(f"structures/own/part-0000{number}.parquet") for number in (0, 1)]
    assert [value for name, value in record("tokenizers/tiny")["inputs"].items() if name.startswith("chains")] == parts
    tokens = {sha256(f"tokens/tiny/own/part-0000{number}.parquet") for number in (0, 1)}
    for model in ("models/tiny", "models/tiny/initial"):
        assert tokens < set(record(model)["inputs"].values())
    assert record("models/tiny")["inputs"]["initial"] == sha256("models/tiny/initial/model.safetensors")
    for task in ("co-generation", "folding", "inverse-folding", "scaffolding"):
        evaluated = record(f"evaluation/tiny/{task}")
        assert evaluated["inputs"]["samples"] == sha256(f"samples/tiny/{task}/samples.parquet")
        assert evaluated["samples"] == record(f"samples/tiny/{task}")["samples"]


def test_summaries_equal_the_means_of_the_rows(finished):
    """The report's summary has the means of metrics.parquet."""
    results = finished.folder / "results"
    report = pd.read_csv(results / "report" / "tables" / "summary.csv")
    for task in ("co-generation", "folding", "inverse-folding"):
        rows = pd.read_parquet(results / "evaluation" / "tiny" / task / "metrics.parquet")
        summary = report[(report["task"] == task) & (report["model"] == "tiny")].set_index("metric")
        means = {name: float(rows[name].dropna().mean()) for name in summary.index if name in rows}
        assert len(means) >= 3
        assert summary.loc[list(means), "value"].to_dict() == pytest.approx(means, rel=1e-4, nan_ok=True)


def test_samples_follow_the_data_contract(finished):
    samples = pq.read_table(finished.folder / "results/samples/tiny/co-generation/samples.parquet")
    assert samples.num_rows == 2
    for sequence, tokens, backbone in zip(
        *(samples[name].to_pylist() for name in ("sequence", "structure_tokens", "backbone")), strict=True
    ):
        assert len(sequence) == len(tokens) == 20
        assert len(backbone) == 20 * 4 * 3
        assert set(sequence) <= set("ACDEFGHIKLMNPQRSTVWY")
    for sample_id, sequence, backbone in zip(
        *(samples[name].to_pylist() for name in ("sample_id", "sequence", "backbone")), strict=True
    ):
        atoms = pdb.PDBFile.read(
            finished.folder / f"results/samples/tiny/co-generation/structures/{sample_id}.pdb"
        ).get_structure(model=1)
        assert ProteinSequence([*atoms.res_name[atoms.atom_name == "CA"]]) == ProteinSequence(sequence)
        np.testing.assert_allclose(atoms.coord.ravel(), backbone, atol=1e-3)


def test_second_run_does_nothing(finished):
    done = finished.snakemake()
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (
            lambda c: c["generation"]["co-generation"].update(strategy="annealing@1.5:0.5"),
            {"generate", "evaluate_samples", "rank_designs", "report"},
        ),
        (
            lambda c: c["report"].update(title="Another") if "report" in c else c.update(report={"title": "Another"}),
            {"report"},
        ),
        (lambda c: c["evaluation"].update(match_tm_score=0.7), {"evaluate_samples", "rank_designs", "report"}),
        (lambda c: c["evaluation"].update(ranking={"weights": {"sc_tm": 1}}), {"rank_designs", "report"}),
        (
            lambda c: c["models"]["tiny"].update(diffusion={"weighting": "constant"}),
            {"train_model", "generate", "evaluate_samples", "rank_designs", "evaluate_likelihood", "report"}
            | {"probe_representations", "compare_representations", "score_proteingym"},
        ),
        (lambda c: c.update(state="state", results="results"), set()),
    ],
    ids=["sampling", "report", "threshold", "ranking", "objective", "nothing"],
)
def test_change_reruns_exactly_the_affected_stages(finished, change, rules):
    before = finished.configuration
    finished.configuration = copy.deepcopy(before)
    try:
        change(finished.configuration)
        assert set(finished.planned()) - {"all"} == rules
    finally:
        finished.configuration = before


def test_new_file_reruns_one_shard(finished):
    before = finished.configuration
    finished.configuration = copy.deepcopy(before)
    # A finished tokenizer, since one trained on the file would be trained again.
    finished.configuration["tokenizers"]["tiny"] = {"pretrained": "results/tokenizers/tiny"}
    new = finished.files / "1ris_A.bcif.gz"
    try:
        assert not set(finished.planned()) & {"clean_structures", "encode_tokens", "train_model"}
        shutil.copy(DEMO / "train" / "1ris_A.bcif.gz", new)
        jobs = finished.planned()
    finally:
        new.unlink(missing_ok=True)
        finished.configuration = before
        finished.planned()
    assert jobs["clean_structures"] == 1
    assert jobs["encode_tokens"] == 1
    assert "train_tokenizer" not in jobs


@pytest.mark.parametrize("name", ["motifs/ubiquitin-helix.yaml", "motifs/1ubq_A.bcif.gz"])
def test_changed_motif_or_reference_reruns_scaffolding(finished, name):
    path = finished.folder / name
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_bytes(before + b"\n")
        assert finished.planned()["generate"] == 1
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_changed_sequence_file_reruns_the_sequence_stage(finished):
    path = finished.folder / "sequences.fasta.gz"
    before, times = path.read_bytes(), path.stat()
    try:
        assert "warm_up_model" not in finished.planned("models")
        path.write_bytes(before + gzip.compress(b">more\nMKV\n"))
        assert finished.planned("models").items() >= {"warm_up_model": 1, "train_model": 1}.items()
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_missing_local_source_stops_before_any_job(tmp_path):
    workdir = Workdir(tmp_path / "run")
    tiny = workdir.configuration["models"]["tiny"]
    del tiny["network"], tiny["warmup"]["sequence_files"], tiny["warmup"]["sequence_training"]

    def done(source, *options):
        tiny["warmup"]["source"] = source
        ended = workdir.snakemake("models", *options, "--quiet", "host")
        return ended.returncode, ended.stdout + ended.stderr

    for source in ("esm2_t6_8M_UR50D.pt", "./dplm", "airkingbd/dplm_150m"):
        status, said = done(source, "--dry-run")
        assert status == 0, said
    for source in ("esm2_t6_8M_UR50D.pt", "./dplm"):
        status, said = done(source)
        assert status != 0 and f"models.tiny.warmup.source: {source}" in said, said
        assert not (workdir.folder / "results/structures").exists()


def test_missing_motif_reference_stops_before_any_job(tmp_path):
    workdir = Workdir(tmp_path / "run")
    (workdir.folder / "motifs/1ubq_A.bcif.gz").unlink()
    done = workdir.snakemake()
    assert done.returncode != 0
    assert "1ubq_A.bcif.gz" in done.stdout + done.stderr
    assert not (workdir.folder / "results").exists()


def test_training_waits_for_its_initial_tokenizer(finished):
    before = finished.configuration
    finished.configuration = copy.deepcopy(before)
    tiny = finished.configuration["tokenizers"]["tiny"]
    finished.configuration["tokenizers"]["longer"] = {**tiny, "initial": "results/tokenizers/tiny"}
    try:
        jobs = finished.planned()
        assert jobs["train_tokenizer"] == 1, jobs
        weights = finished.folder / "results/tokenizers/tiny/model.safetensors"
        hidden = weights.rename(weights.with_name("hidden"))
        assert finished.planned()["train_tokenizer"] == 2
        hidden.rename(weights)
    finally:
        finished.configuration = before
        finished.planned()


def test_unreadable_file_is_listed_as_rejected(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.configuration = {"datasets": {"own": {"files": "files", "shards": 2}}}
    (workdir.files / "broken.pdb").write_text("this is no structure\n")
    done = workdir.snakemake("structures")
    assert done.returncode == 0, done.stdout + done.stderr
    rejected = pq.read_table(workdir.folder / "results/structures/own/rejected.parquet").to_pylist()
    assert [(row["code"], row["source_file"].endswith("broken.pdb")) for row in rejected] == [("unreadable", True)]


def test_no_usable_chain_stops_with_a_one_line_error(tmp_path):
    workdir = Workdir(tmp_path / "run")
    for path in workdir.files.iterdir():
        path.unlink()
    (workdir.files / "broken.pdb").write_text("this is no structure\n")
    done = workdir.snakemake("structures")
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "no usable chain" in line]
    assert lines, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["tokenizers"]["tiny"]["training"].update(stepps=3),
            "tokenizers.tiny.training: unknown key 'stepps'",
        ),
        (lambda c: c["tokenizers"]["tiny"]["quantizer"].update(bits="four"), "tokenizers.tiny.quantizer.bits"),
        (
            lambda c: c["tokenizers"]["tiny"]["quantizer"].update(bits_per_value=[2, 1], bound="tanh"),
            "tokenizers.tiny.quantizer.bits_per_value: adds up to 3, bits is 4",
        ),
        (lambda c: c["generation"]["folding"].update(dataset="nowhere"), "generation.folding.dataset"),
        (lambda c: c["datasets"]["own"].update(files="nowhere"), "datasets.own.files"),
    ],
    ids=["unknown key", "wrong type", "contradiction", "unknown name", "missing folder"],
)
def test_invalid_configuration_stops_before_any_job(tmp_path, change, message):
    workdir = Workdir(tmp_path / "run")
    workdir.configuration = copy.deepcopy(workdir.configuration)
    change(workdir.configuration)
    done = workdir.snakemake()
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not (workdir.folder / "results").exists()


def with_preset(folder: Path, preset: str) -> Workdir:
    """A folder with a preset's configuration and placeholders for the files that it names."""
    configuration = loading.read(ROOT / "config" / f"{preset}.yaml")
    for kind in ("datasets", "tokenizers", "models", "generation"):
        configuration[kind] = {name: entry for name, entry in configuration[kind].items() if entry is not None}
    workdir = Workdir(folder)
    workdir.configuration = configuration
    for dataset in configuration["datasets"].values():
        files = workdir.folder / dataset["files"]
        files.mkdir(parents=True, exist_ok=True)
        shutil.copy(DEMO / "train" / "1shg_A.bcif.gz", files)
    for kind in ("tokenizers", "models"):
        for section in configuration[kind].values():
            if "pretrained" in section:
                folder = workdir.folder / section["pretrained"]
                folder.mkdir(parents=True)
                (folder / "model.safetensors").touch()
    shutil.copytree(ROOT / "config", workdir.folder / "config")
    for task in configuration["generation"].values():
        if task["task"] == "scaffolding":
            references = workdir.folder / task["references"] if "references" in task else None
            for path in reference_files([workdir.folder / problem for problem in task["problems"]], references):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    return workdir


@pytest.mark.parametrize("preset", ["paper_150m", "paper_650m", "paper_3b", "paper_bit_650m", "ablations", "benchmark"])
def test_preset_resolves_to_the_complete_graph(tmp_path, preset):
    workdir = with_preset(tmp_path / "run", preset)
    configuration = workdir.configuration
    jobs = workdir.planned()
    assert jobs["report"] == 1
    models = len(configuration["models"])
    assert jobs["evaluate_samples"] % models == 0
    trained = sum("pretrained" not in model for model in configuration["models"].values())
    assert jobs.get("train_model", 0) == trained


@pytest.mark.parametrize("program", ["boltz", "chai", "colabfold"])
def test_folding_configuration_overrides_the_benchmark(tmp_path, program):
    workdir = with_preset(tmp_path / "run", "benchmark")
    files = ["config/benchmark.yaml", f"config/folding_{program}.yaml"]
    done = workdir.snakemake("benchmark", "--configfile", *files, "--dry-run", "--printshellcmds", "--quiet", "host")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    commands = [line for line in said.splitlines() if " evaluate co-generation " in line]
    assert len(commands) == 1 and f"conda run --name {program} " in commands[0] and " {fasta} " in commands[0]
    assert '"folding_backend": "command"' in commands[0] and '"esmfold": null' in commands[0]


@pytest.fixture
def structure_server():
    """The demo's structures under ``/<name>``, and the list of requests; status 404 for anything else."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append(self.path)
            file = DEMO / "train" / self.path.rsplit("/", 1)[-1]
            body = file.read_bytes() if file.is_file() else b"no such entry"
            self.send_response(200 if file.is_file() else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}", asked
    running.shutdown()
    running.server_close()
    thread.join()


def test_dataset_is_downloaded_from_its_list(tmp_path, structure_server):
    address, asked = structure_server
    files = sorted(path.name for path in (DEMO / "train").glob("*_A.bcif.gz"))[:6]
    ids = [name.removesuffix("_A.bcif.gz") for name in files]
    workdir = Workdir(tmp_path / "run")
    fetch = {"list": "ids.txt", "pdb_address": f"{address}/{{id}}_A.bcif.gz", "first_wait": 0.01, "tries": 2}
    workdir.configuration = {"datasets": {"own": {"fetch": fetch, "shards": 3}}}
    results, listed = workdir.folder / "results", workdir.folder / "ids.txt"

    def run():
        asked.clear()
        done = workdir.snakemake("structures")
        assert done.returncode == 0, done.stdout + done.stderr
        chains = [pq.read_table(path) for path in sorted((results / "structures/own").glob("part-*.parquet"))]
        rejected = pq.read_table(results / "structures/own/rejected.parquet").to_pylist()
        return {row for part in chains for row in part["chain_id"].to_pylist()}, rejected

    # One download fails: the rows of chains and rejects are all requested entries.
    listed.write_text("\n".join([*ids[:4], "9zzz"]) + "\n")
    chains, rejected = run()
    assert chains == {f"{name}_A" for name in ids[:4]}
    assert [(row["code"], row["source_file"], row["reason"]) for row in rejected] == [
        ("not_fetched", f"{address}/9zzz_A.bcif.gz", "status 404")
    ]
    recorded = (results / "downloads/own/files/downloads.tsv").read_text()
    for name in files[:4]:
        assert hashlib.sha256((DEMO / "train" / name).read_bytes()).hexdigest() in recorded
    assert not set(workdir.planned("structures")) & {"fetch_structures", "clean_structures"}

    # One more entry downloads one file and cleans one shard.
    listed.write_text("\n".join(["9zzz", *ids[:5]]) + "\n")
    jobs = workdir.planned("structures")
    assert (jobs["fetch_structures"], jobs["clean_structures"]) == (1, 1)
    chains, rejected = run()
    assert chains == {f"{name}_A" for name in ids[:5]}
    assert len(rejected) == 1
    assert set(asked) <= {f"/{files[4]}", "/9zzz_A.bcif.gz"}
    assert f"/{files[4]}" in asked

    # Retry settings do not rerun anything; with other shards nothing is downloaded again.
    fetch["concurrency"] = 2
    assert not set(workdir.planned("structures")) & {"fetch_structures", "clean_structures"}
    workdir.configuration["datasets"]["own"]["shards"] = 2
    assert run()[0] == chains
    assert set(asked) == {"/9zzz_A.bcif.gz"}

    # If no file may be missing, the run stops and names those that are.
    fetch["allow_missing"] = False
    listed.write_text("\n".join([*ids, "9zzz"]) + "\n")
    done = workdir.snakemake("structures", "--forcerun", "fetch_structures")
    assert done.returncode != 0
    assert "9zzz: status 404" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_other_file_lists_rerun_only_changed_shards(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.configuration = {"datasets": {"own": {"files": "files", "shards": 2}}}
    assert workdir.snakemake("structures").returncode == 0
    shutil.copy(DEMO / "train" / "1ris_A.bcif.gz", workdir.folder)
    workdir.configuration["datasets"]["own"]["files"] = ["files", "1ris_A.bcif.gz"]
    assert workdir.planned("structures")["clean_structures"] == 1
