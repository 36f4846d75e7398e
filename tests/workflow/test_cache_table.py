"""The caching guarantees: which rules run again after each kind of change, from dry runs of a finished run."""

import copy
import gzip
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.workflow.cache_table import ADDS, EXAMPLES, READ_BY, all_keys, page, rows, runs_again, runs_first
from tests.workflow.conftest import DEMO, ROOT, Workdir

pytestmark = pytest.mark.workflow

TRAINING = {"train_tokenizer", "warm_up_model", "train_model"}
SHOWN = {key: change for key, change in EXAMPLES.items() if change is not None}


def merged(lower, upper):
    result = copy.deepcopy(lower)
    for key, value in upper.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def planned(workdir: Workdir, *arguments) -> set[str]:
    return set(workdir.planned(*arguments)) - {"all"}


def test_caching_page_is_up_to_date():
    written = (ROOT / "docs" / "caching.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m tests.workflow.cache_table > docs/caching.md"


def test_every_row_has_an_example_change():
    for (_, first, _), keys in rows().items():
        assert set(keys) & set(EXAMPLES) or first == (), f"no example of a change of {keys}"


@pytest.mark.parametrize("key", SHOWN)
def test_changed_key_reruns_only_what_it_decides(finished, key):
    before = finished.configuration
    finished.configuration = merged(before, SHOWN[key])
    try:
        expected = runs_again(runs_first(key, all_keys()[key]))
        if key == "seed":  # no split is drawn in this run
            expected -= {"select_structures"}
        assert planned(finished) == (ADDS.get(key) or expected)
    finally:
        finished.configuration = before


def test_dependencies_equal_snakemakes_rule_graph(finished):
    """The rule graph of the page, edge by edge."""
    said = finished.snakemake("--rulegraph", "dot").stdout
    names, edges = {}, set()
    for line in said.splitlines():
        words = line.strip()
        if "label" in words and "[" in words:
            names[words.split("[")[0].strip()] = words.split('label = "')[-1].split('"')[0].split("\\n")[0]
        elif "->" in words:
            start, end = words.rstrip(";").split(" -> ")
            edges.add((start.strip(), end.strip()))
    found = {(names[a], names[b]) for a, b in edges if "all" not in (names[a], names[b])}
    assert found, said
    declared = {(rule, reader) for rule, readers in READ_BY.items() for reader in readers}
    assert found <= declared
    # A run without downloaded datasets lacks their edge; all others exist.
    assert declared - found <= {("fetch_structures", "clean_structures")}


class Kept:
    """Restores files, including their times."""

    def __init__(self, *paths: Path) -> None:
        self.before = {path: (path.read_bytes(), path.stat()) for path in paths if path.is_file()}
        self.absent = [path for path in paths if not path.exists()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for path in self.absent:
            path.unlink(missing_ok=True)
        for path, (content, stat) in self.before.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_touched_inputs_rerun_nothing(finished):
    paths = [*finished.files.iterdir(), *(finished.folder / "motifs").iterdir(), finished.folder / "sequences.fasta.gz"]
    assert planned(finished) == set()
    later = time.time() + 5
    with Kept(*paths):
        for path in paths:
            os.utime(path, (later, later))
        assert planned(finished) == set()


def test_moved_structures_rerun_nothing(finished):
    before = finished.configuration
    moved = finished.folder / "moved here"
    finished.files.rename(moved)
    finished.configuration = merged(before, {"datasets": {"own": {"files": str(moved)}}})
    try:
        assert planned(finished) == set()
    finally:
        moved.rename(finished.files)
        finished.configuration = before


@pytest.mark.parametrize("event", ["added", "changed", "removed", "replaced by an equally large one", "recompressed"])
def test_new_structure_reruns_one_shard(finished, event):
    first = sorted(finished.files.iterdir())[0]
    new = finished.files / "1ris_A.bcif.gz"
    with Kept(first, new, first.with_suffix("")):
        if event == "added":
            shutil.copy(DEMO / "train" / "1ris_A.bcif.gz", new)
        elif event == "changed":
            first.write_bytes(first.read_bytes() + gzip.compress(b""))
        elif event == "removed":
            first.unlink()
        elif event == "replaced by an equally large one":
            times = first.stat()
            data = bytearray(first.read_bytes())
            data[-1] ^= 1
            first.write_bytes(bytes(data))
            os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
        else:
            first.with_suffix("").write_bytes(gzip.decompress(first.read_bytes()))
            first.unlink()
        jobs = finished.planned()
        assert jobs["clean_structures"] == 1, jobs
        # Both shards of tokens depend on the tokenizer, which is trained on the new structure.
        assert jobs["train_tokenizer"] == 1
    assert planned(finished) == set()


def test_new_structure_reruns_one_shard_of_tokens_of_a_finished_tokenizer(finished):
    before = finished.configuration
    finished.configuration = copy.deepcopy(before)
    finished.configuration["tokenizers"]["tiny"] = {"pretrained": "results/tokenizers/tiny"}
    new = finished.files / "1ris_A.bcif.gz"
    try:
        assert not planned(finished) & {"clean_structures", "encode_tokens", *TRAINING}
        with Kept(new):
            shutil.copy(DEMO / "train" / "1ris_A.bcif.gz", new)
            jobs = finished.planned()
            assert (jobs["clean_structures"], jobs["encode_tokens"]) == (1, 1)
    finally:
        finished.configuration = before


def test_touched_large_weights_rerun_nothing(finished, tmp_path):
    """Files above 1 MiB are identified by size and time until a job has recorded their content."""
    workdir = Workdir(tmp_path / "run")
    large = []
    for kind in ("tokenizers", "models"):
        folder = workdir.folder / "given" / kind / "tiny"  # the model's config.json names ../../tokenizers/tiny
        shutil.copytree(finished.folder / "results" / kind / "tiny", folder, ignore=shutil.ignore_patterns("initial"))
        large.append(folder / "more.bin")  # counts as weights, and no loader minds it
        large[-1].write_bytes(kind.encode() + bytes(2 << 20))
        workdir.configuration[kind]["tiny"] = {"pretrained": f"./given/{kind}/tiny"}
    workdir.configuration["models"]["tiny"]["tokenizer"] = "tiny"
    workdir.configuration["generation"] = {"designs": workdir.configuration["generation"]["co-generation"]}
    done = workdir.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(workdir) == set()
    later = time.time() + 5
    for file in large:
        os.utime(file, (later, later))
    assert planned(workdir) == set()
    copied = workdir.folder / "given" / "models" / "copied ü"
    shutil.copytree(workdir.folder / "given" / "models" / "tiny", copied)
    workdir.configuration["models"]["tiny"]["pretrained"] = "./given/models/copied ü"
    assert planned(workdir) == set()
    large[0].write_bytes(large[0].read_bytes()[:-1] + b"x")
    reads_tokenizer = {"encode_tokens", "evaluate_tokenizer", "evaluate_likelihood", "evaluate_samples"}
    reads_tokenizer |= {"rank_designs", "report"}
    jobs = planned(workdir)
    assert {"encode_tokens", "evaluate_tokenizer"} <= jobs <= reads_tokenizer, jobs
    (copied / "more.bin").write_bytes(large[1].read_bytes()[:-1] + b"y")
    reads_model = {"generate", "evaluate_likelihood", "evaluate_samples", "rank_designs"}
    reads_model |= {"probe_representations", "compare_representations", "score_proteingym"}
    assert planned(workdir) == jobs | reads_model


def test_dry_run_with_other_shards_changes_nothing(finished):
    before = finished.configuration
    state = finished.folder / "state" / "manifests"
    written = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in state.rglob("*") if path.is_file()}
    assert written
    finished.configuration = merged(before, {"datasets": {"own": {"shards": 5}}})
    try:
        assert finished.planned()["clean_structures"] == 5
    finally:
        finished.configuration = before
    assert written == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in state.rglob("*") if path.is_file()
    }
    assert planned(finished) == set()


def outputs(folder: Path) -> dict[str, str]:
    """One file or folder of each output of each rule in the finished run."""
    results = {
        "structures/own/part-00001.parquet": "clean_structures",
        "structures/own/shards/rejected-00000.parquet": "clean_structures",
        **dict.fromkeys(("structures/own/selection.parquet", "structures/own/rejected.parquet"), "select_structures"),
        "structures/own/run.json": "select_structures",
        "tokens/tiny/own/part-00000.parquet": "encode_tokens",
        "models/tiny/initial/model.safetensors": "warm_up_model",
        "models/tiny/initial/run.json": "warm_up_model",
        "samples/tiny/co-generation/structures": "generate",
        "samples/tiny/co-generation/run.json": "generate",
        "evaluation/tokenizers/tiny/test/trained/run.json": "evaluate_tokenizer",
        "evaluation/tiny/likelihood/own/metrics.parquet": "evaluate_likelihood",
        "evaluation/tiny/folding/run.json": "evaluate_samples",
        **dict.fromkeys(("report/tables", "report/figures", "report/run.json", "report/report.html"), "report"),
    }
    for name in ("model.safetensors", "config.json", "metrics.csv", "run.json"):
        results[f"tokenizers/tiny/{name}"], results[f"models/tiny/{name}"] = "train_tokenizer", "train_model"
    assert all((folder / name).exists() for name in results), results
    return results


def test_deleted_outputs_are_recreated(finished):
    results = finished.folder / "results"
    for name, rule in outputs(results).items():
        hidden = (results / name).rename(finished.folder / "hidden")
        try:
            jobs = planned(finished)
        finally:
            hidden.rename(results / name)
        assert rule in jobs, (name, jobs)
        assert jobs <= runs_again((rule,)), (name, jobs)
    assert planned(finished) == set()


def test_moved_results_and_state_rerun_nothing(finished):
    before = finished.configuration
    folder = finished.folder
    moves = {"results": folder / "moved" / "a b ü", "state": folder / "moved" / "s"}
    (folder / "moved").mkdir()
    for name, place in moves.items():
        (folder / name).rename(place)
    finished.configuration = merged(before, {name: str(place) for name, place in moves.items()})
    try:
        assert planned(finished) == set()
    finally:
        for name, place in moves.items():
            place.rename(folder / name)
        finished.configuration = before
    assert planned(finished) == set()


def test_other_working_directory_reruns_nothing(finished, tmp_path):
    other = copy.copy(finished)
    other.folder = tmp_path
    folders = {name: str(finished.folder / name) for name in ("results", "state")}
    other.configuration = merged(finished.configuration, folders)
    assert planned(other) == set()


def test_unusual_paths_give_the_same_results(finished, tmp_path):
    other = Workdir(tmp_path / "a b ü")
    other.configuration |= {"results": "my results; touch X; x", "state": "ståte of mine"}
    done = other.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    kept = {
        "a b ü": {"files", "motifs", "my results; touch X; x", "ståte of mine", "config.yaml", "sequences.fasta.gz"}
    }
    inputs = {"labels.csv", "DMS.csv", "assays"}
    assert {path.name for path in other.folder.iterdir()} - {".snakemake"} - inputs == kept["a b ü"]
    ours, theirs = other.folder / "my results; touch X; x", finished.folder / "results"
    compared = 0
    for path in sorted(theirs.rglob("*")):
        name = path.relative_to(theirs)
        # Records and tables of speed contain times, which the report shows.
        if (
            path.is_file()
            and path.suffix in (".safetensors", ".parquet", ".pdb", ".bcif")
            and name.parts[0] != "report"
        ):
            assert (ours / name).read_bytes() == path.read_bytes(), name
            compared += 1
    assert compared > 20
