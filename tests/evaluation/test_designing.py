"""``dplm2 design`` and ``dplm2 evaluate designs``: all stages in one folder, resumable, for any program's designs."""

import gzip
import json
import math
import re
import shlex
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from biotite.sequence.io.fasta import FastaFile

from dplm2.cli import main
from dplm2.evaluation import design_command, rank_command
from dplm2.evaluation.backends import folding
from dplm2.evaluation.backends.command import read_backbone
from dplm2.evaluation.backends.self_folding import SelfFolding
from dplm2.generation.inputs import chains_of
from dplm2.generation.model import DPLM2
from dplm2.generation.samples import read_samples
from dplm2.settings.designs import FilterSettings
from dplm2.structures.writing import write_structure
from tests.evaluation.test_benchmarks import DEMO, LOOK_UP
from tests.evaluation.test_folding_backends import esmfold_folder  # noqa: F401
from tests.evaluation.test_folding_configs import runs  # noqa: F401
from tests.generation.conftest import folders, ubiquitin  # noqa: F401

FEW = ["lengths=[12]", "samples=6", "steps=3", "evaluation.self.steps=2", "evaluation.bootstrap_samples=10"]
ROOT = Path(__file__).parents[2]


def design(folders, out, *options, task="co-generation", settings=FEW):  # noqa: F811
    given = [
        "--task",
        task,
        "--model",
        folders / "model",
        "--out",
        out,
        "--device",
        "cpu",
        "--set",
        *settings,
        *options,
    ]
    return main(["design", *map(str, given)])


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder of designs, but for records with times and what is stored for a next run."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json" and not path.name.startswith(".") and "state" not in path.parts
    }


def entropy(sequence: str) -> float:
    shares = [count / len(sequence) for count in Counter(sequence).values()]
    return -sum(share * math.log(share) for share in shares)


def test_one_command_gives_ranked_designs_and_says_what_was_filtered(folders, tmp_path, capsys):  # noqa: F811
    assert design(folders, tmp_path, "--best", "0") == 0
    entropies = {row["sample_id"]: entropy(row["sequence"]) for row in read_samples(tmp_path / "samples").to_pylist()}
    limit = sorted(entropies.values())[2] + 1e-4
    removed = {name for name, value in entropies.items() if value < limit}
    assert 0 < len(removed) < 6
    capsys.readouterr()
    options = ["--filter", f"min_sequence_entropy={limit}", "--rank", "sc_rmsd=1", "--best", "2"]
    assert design(folders, tmp_path, *options) == 0
    said = capsys.readouterr().out
    assert f"left out: {len(removed)} of 6 samples (min_sequence_entropy: {len(removed)}); see run.json" in said
    table = pd.read_csv(tmp_path / "designs.csv")
    assert set(table["id"]) == set(entropies) and set(table["id"][table["failed"]]) == removed
    for row in table[table["failed"]].itertuples():
        assert row.failure == f"min_sequence_entropy: {entropies[row.id]:.4g} (at least {limit:g})"
    kept = table[~table["failed"]]
    assert kept["sc_rmsd"].is_monotonic_increasing and kept["rank"].tolist() == list(range(1, len(kept) + 1))
    folded = pd.read_parquet(tmp_path / "evaluation" / "folded.parquet")
    assert set(folded["sample_id"]) == set(kept["id"]), "only those that pass are folded"
    assert len(list((tmp_path / "best").glob("*.pdb"))) == 4
    best = FastaFile.read(tmp_path / "best" / "best.fasta")
    assert [header.split()[0] for header in best] == table["id"].head(2).tolist()
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {
        "designs.csv", "designs.fasta", "best", "run.json", "samples", "evaluation", "state",
    }  # fmt: skip


def test_a_second_run_does_nothing_again_and_another_ranking_only_ranks(folders, tmp_path, monkeypatch, capsys):  # noqa: F811
    assert design(folders, tmp_path) == 0
    before = files(tmp_path)

    def never(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr(DPLM2, "run", never)
    monkeypatch.setattr(folding, "predict", never)
    monkeypatch.setattr("dplm2.evaluation.benchmarks.job.predict", never)
    capsys.readouterr()
    assert design(folders, tmp_path) == 0
    said = capsys.readouterr().out
    assert f"samples: {tmp_path / 'samples'} (finished already)" in said
    assert f"evaluation: {tmp_path / 'evaluation'} (finished already)" in said
    assert files(tmp_path) == before
    assert design(folders, tmp_path, "--rank", "sc_tm=-1", "--at-least", "sc_tm=0", "--at-most", "sc_rmsd=99") == 0
    assert pd.read_csv(tmp_path / "designs.csv")["sc_tm"].is_monotonic_increasing
    kept = [name for name in before if name.startswith(("samples/", "evaluation/"))]
    assert len(kept) > 10 and {name: files(tmp_path)[name] for name in kept} == {name: before[name] for name in kept}


def test_another_filter_folds_only_what_was_not_folded(folders, tmp_path, monkeypatch):  # noqa: F811
    assert design(folders, tmp_path, "--filter", "max_repeat=2") == 0
    passed = set(pd.read_parquet(tmp_path / "evaluation" / "folded.parquet")["sample_id"])
    fold, asked = SelfFolding.fold, []
    monkeypatch.setattr(SelfFolding, "fold", lambda self, sequences: asked.extend(sequences) or fold(self, sequences))
    monkeypatch.setattr(DPLM2, "requests", lambda self, settings, *o, **k: _only_folding(self, settings, *o, **k))
    assert design(folders, tmp_path) == 0
    rows = read_samples(tmp_path / "samples").to_pylist()
    assert set(asked) == {row["sequence"] for row in rows if row["sample_id"] not in passed}
    assert not pd.read_csv(tmp_path / "designs.csv")["failed"].any()


REQUESTS = DPLM2.requests


def _only_folding(self, settings, *others, **named):
    assert settings.task == "folding", "samples are generated again"
    return REQUESTS(self, settings, *others, **named)


def test_an_interrupted_run_resumes_and_ends_with_the_same_files(folders, tmp_path, monkeypatch, capsys):  # noqa: F811
    settings = [*FEW, "token_budget=60", "evaluation.self.batch_size=2"]
    assert design(folders, tmp_path / "whole", settings=settings) == 0
    decode, batches = DPLM2._decoded, []

    def stop_after_a_batch(self, *arguments):
        batches.append(arguments)
        if len(batches) == 1:
            signal.raise_signal(signal.SIGTERM)
        return decode(self, *arguments)

    monkeypatch.setattr(DPLM2, "_decoded", stop_after_a_batch)
    assert design(folders, tmp_path / "cut", settings=settings) == 75
    assert "samples are kept" in capsys.readouterr().err
    monkeypatch.setattr(DPLM2, "_decoded", decode)
    fold, groups = SelfFolding.fold, []

    def stop_after_a_group(self, sequences):
        groups.append(sequences)
        if len(groups) == 1:
            signal.raise_signal(signal.SIGTERM)
        return fold(self, sequences)

    monkeypatch.setattr(SelfFolding, "fold", stop_after_a_group)
    assert design(folders, tmp_path / "cut", settings=settings) == 75
    said = capsys.readouterr()
    assert "samples are already finished" in said.out
    assert f"stopped by SIGTERM: 2 of {len(_sequences(tmp_path / 'cut'))} predictions are kept" in said.err
    assert not (tmp_path / "cut" / "designs.csv").exists()
    assert design(folders, tmp_path / "cut", settings=settings) == 0
    assert "finished already" in capsys.readouterr().out
    # No sequence was folded twice.
    assert sorted(sequence for group in groups for sequence in group) == _sequences(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_the_given_tokenizer_decodes_predictions_too(folders, tmp_path):  # noqa: F811
    """The model's own is not where it says."""
    shutil.copytree(folders / "model", tmp_path / "alone" / "model")
    words = [
        "--task",
        "co-generation",
        "--model",
        tmp_path / "alone" / "model",
        "--out",
        tmp_path / "out",
        "--set",
        *FEW,
    ]
    assert main(["design", *map(str, words)]) == 1
    assert main(["design", *map(str, words), "--tokenizer", str(folders / "tokenizer")]) == 0
    assert design(folders, tmp_path / "same") == 0
    assert (tmp_path / "out" / "designs.fasta").read_bytes() == (tmp_path / "same" / "designs.fasta").read_bytes()


def _sequences(folder: Path) -> list[str]:
    return sorted({row["sequence"] for row in read_samples(folder / "samples").to_pylist()})


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "inverse-folding",
            ["--filter", "max_clashes_per_100_residues=1"],
            "max_clashes_per_100_residues: has no effect",
        ),
        ("backbone", [], "evaluation.inverse_folding_backend: backbones have no sequence"),
        ("co-generation", ["--filter", "max_repeats=2"], "unknown key 'max_repeats' (did you mean 'max_repeat'?)"),
        ("co-generation", ["--filter", "max_repeat"], "max_repeat: must be KEY=VALUE"),
        ("co-generation", ["--rank", "sctm=1"], "unknown key 'sctm' (did you mean 'sc_tm'?)"),
        ("co-generation", ["--fold", "command"], "command: missing; folding_backend: command needs it"),
        ("co-generation", ["--best", "-1"], "evaluation.ranking.best: -1: must be at least 0"),
        ("scaffolding", ["--chains", "x"], "lengths: has no effect on this task"),
    ],
)
def test_wrong_use_is_refused_before_anything_runs(folders, tmp_path, capsys, task, options, message):  # noqa: F811
    settings = FEW[1:] if task in ("inverse-folding",) else FEW
    assert design(folders, tmp_path / "out", *options, task=task, settings=settings) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "samples").exists()


def test_no_design_is_left(folders, tmp_path, capsys):  # noqa: F811
    assert design(folders, tmp_path, "--filter", "min_sequence_entropy=2.9") == 1
    said = capsys.readouterr()
    assert "left out: 6 of 6 samples (min_sequence_entropy: 6)" in said.out
    assert "no sample passes the filters of the section evaluation" in said.err


@pytest.fixture
def place(tmp_path, monkeypatch, folders, ubiquitin, esmfold_folder):  # noqa: F811
    """A working directory with what the examples of the help name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    shutil.copytree(folders / "tokenizer", tmp_path / "tokenizer")
    shutil.copytree(folders / "model", tmp_path / "M")
    shutil.copytree(esmfold_folder, tmp_path / "esmfold")
    (tmp_path / "1ubq.pdb").write_bytes(gzip.decompress(ubiquitin.read_bytes()))  # recognised by its content
    shutil.copy(tmp_path / "1ubq.pdb", tmp_path / "complex.pdb")
    (tmp_path / "motif.yaml").write_text("{reference: 1ubq.pdb, contig: '2-5,A10-15,3'}")
    (tmp_path / "structures").mkdir()
    shutil.copy(ubiquitin, tmp_path / "structures")
    (tmp_path / "sequences.fasta").write_text(">a\nMKTAYIAKQR\n>b\nACDEFGHIKL\n")
    (tmp_path / "designs.csv").write_text("id,sequence,file\nx,MKTAYIAKQR,\ny,,1ubq.pdb\n")
    return tmp_path


def examples(text: str) -> list[str]:
    return re.findall(r"^  (dplm2 .*)$", text.replace("\\\n", " "), flags=re.MULTILINE)


@pytest.mark.parametrize("example", examples(design_command.EPILOG) + examples(design_command.GIVEN_EPILOG))
def test_the_examples_of_the_help(place, runs, example):  # noqa: F811
    words = shlex.split(example)[1:]
    designing = words[0] == "design"
    prefix = "evaluation." if designing else ""
    words += ["--device", "cpu", "--set", f"{prefix}bootstrap_samples=10"]
    if designing:
        words.append("steps=2")
    if "esmfold" in words:
        words += [f"{prefix}esmfold.model=esmfold", f"{prefix}esmfold.recycles=0"]
        words += ["lengths=[12]", "samples=3"] if designing else []
    elif "command" in words:
        words += ["lengths=[12]", "samples=3"]
    elif designing or "--model" in words:
        words += [f"{prefix}self.steps=2"]
    assert main(words) == 0
    out = Path(words[words.index("--out") + 1])
    table = pd.read_csv(out / "designs.csv")
    assert len(table) and (out / "designs.fasta").is_file() and (out / "best" / "best.fasta").is_file()


@pytest.mark.parametrize(
    "command",
    ["design --task backbone --set lengths=[12] samples=1 steps=1", "evaluate designs designs.csv", "generate folding"],
)
def test_a_missing_device_is_refused(place, capsys, command):
    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    assert main([*command.split(), "--model", "M", "--out", "nowhere", "--device", "mps"]) == 2
    assert capsys.readouterr().err.strip() == "dplm2: device: this machine has no mps"
    assert not (place / "nowhere").exists()


def test_the_commands_of_the_page_run_one_after_the_other(place, capsys):
    """With few steps; the folder `designs` is filled by the first and used by the others."""
    text = (ROOT / "docs" / "designs.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (dplm2 .*)$", text, flags=re.MULTILINE)
    assert len(commands) == 9
    shutil.copytree(place / "M", place / "results" / "models" / "demo")
    shutil.copytree(place / "tokenizer", place / "results" / "models" / "tokenizer")
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "design":
            words += ["--set", "steps=2", "evaluation.self.steps=2"]
        elif words[0] == "evaluate":
            words += ["--set", "self.steps=2"]
        assert main(words) == 0, command
        out = Path(words[words.index("--out") + 1])
        assert (out / "designs.csv").is_file() and (out / "best" / "best.fasta").is_file()
    assert capsys.readouterr().out.count("samples: designs/samples (finished already)") == 2
    named = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    assert named == set(FilterSettings.model_fields)


def test_the_examples_of_rank_are_options_that_there_are(place):
    assert len(examples(rank_command.EPILOG)) == 2
    assert main(shlex.split("design --task co-generation --model M --out d --set lengths=[9] samples=3 steps=2")) == 0
    for example in examples(rank_command.EPILOG):
        for old, new in (
            ("results/samples/demo/folding", "d/samples"), ("results/evaluation/demo/folding", "d/evaluation"),
            ("--samples S", "--samples d/samples"), ("--evaluation E", "--evaluation d/evaluation"),
        ):  # fmt: skip
            example = example.replace(old, new)
        assert main(shlex.split(example)[1:]) == 0
        assert (place / "ranked" / "designs.csv").is_file()


def test_inverse_folding_of_a_file_is_compared_with_that_file(place):
    options = (
        "--task inverse-folding --model M --out d --chains 1ubq.pdb --set samples=2 steps=2 evaluation.self.steps=2"
    )
    assert main(shlex.split(f"design {options}")) == 0
    table = pd.read_csv(place / "d" / "designs.csv")
    (native,) = (chain.sequence for chain in chains_of(place / "1ubq.pdb"))
    for sequence, recovery in zip(table["sequence"], table["recovery"], strict=True):
        assert recovery == pytest.approx(np.mean([one == other for one, other in zip(sequence, native, strict=True)]))


# --- designs of other programs ---


@pytest.fixture(scope="module")
def natives() -> dict[str, tuple[str, np.ndarray]]:
    """Backbones of real chains with made-up sequences."""
    random = np.random.default_rng(4)
    found = {path.name.split(".")[0]: read_backbone(path)[0] for path in sorted(DEMO.glob("*.bcif.gz"))}
    letters = list("ACDEFGHIKLMNPQRSTVWY")
    return {name: ("".join(random.choice(letters, size=len(b))), b) for name, b in found.items()}


@pytest.fixture
def program(tmp_path, natives) -> str:
    """A configuration whose folding program looks structures up; of the first chain it returns a stretched one."""
    folder = tmp_path / "known"
    for number, (name, (sequence, backbone)) in enumerate(natives.items()):
        stretched = backbone * (1.1 if number == 0 else 1.0)
        write_structure(folder / f"{name}.pdb", sequence, stretched, np.full(len(sequence), 50.0 + 10 * number))
    (folder / "index.txt").write_text("".join(f"{s} {name}.pdb\n" for name, (s, _) in natives.items()))
    (tmp_path / "look_up.py").write_text(LOOK_UP)
    template = f"{sys.executable} {tmp_path / 'look_up.py'} {{fasta}} {{out}} {folder}"
    section = {"folding_backend": "command", "command": {"template": template, "structures": "*.pdb"}}
    return json.dumps({"evaluation": section | {"bootstrap_samples": 10}})


def score(tmp_path, program, *paths, options=()) -> pd.DataFrame:
    out = tmp_path / "scored"
    assert main(["evaluate", "designs", *map(str, paths), "--out", str(out), "--config", program, *options]) == 0
    return pd.read_csv(out / "designs.csv").set_index("id")


def structures(folder: Path, natives: dict) -> Path:
    for name, (sequence, backbone) in natives.items():
        write_structure(folder / "below" / f"{name}.pdb", sequence, backbone)
    (folder / "readme.txt").write_text("not a structure")
    return folder


def test_structures_are_compared_with_what_their_sequences_fold_to(tmp_path, natives, program):
    table = score(tmp_path, program, structures(tmp_path / "made", natives))
    first, *others = natives
    assert set(table.index) == set(natives)
    assert table.loc[others, "sc_rmsd"].max() < 0.01
    expected = _stretched_rmsd(natives[first][1], 1.1)
    assert table.loc[first, "sc_rmsd"] == pytest.approx(expected, abs=0.01)
    assert table.loc[first, "plddt"] == 50 and table["plddt"].max() == 50 + 10 * (len(natives) - 1)
    assert table.index[0] == list(natives)[-1]
    assert [table.loc[name, "sequence"] for name in natives] == [sequence for sequence, _ in natives.values()]


def _stretched_rmsd(backbone: np.ndarray, factor: float) -> float:
    """Of a copy that is stretched about the origin: superposition moves it to the centre, and turns nothing."""
    points = backbone[:, :3].reshape(-1, 3).astype(float)
    points = points[np.isfinite(points).all(1)]
    return float((factor - 1) * np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))


@pytest.mark.parametrize("ending", [".fasta", ".fas", ".fna", ".faa", ".txt", ".fa.gz"])
def test_sequences_are_folded_and_ranked_by_confidence(tmp_path, natives, program, ending):
    text = "".join(f">{name} made by another program\n{sequence}\n" for name, (sequence, _) in natives.items())
    path = tmp_path / f"made{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    table = score(tmp_path, program, path)
    assert table.index.tolist() == list(natives)[::-1]
    assert table["plddt"].tolist() == [50.0 + 10 * i for i in range(len(natives))][::-1]
    assert "sc_tm" not in table


def test_a_table_names_sequences_and_structures(tmp_path, natives, program):
    folder = structures(tmp_path / "made", natives)
    (one, (first, _)), (two, _), *_ = natives.items()
    lines = [
        "id,sequence,file,comment",
        f"a,{first},,sequence alone",
        f"b,,below/{two}.pdb,",
        f"c,{first},below/{one}.pdb,",
    ]
    (folder / "table.csv").write_text("\n".join(lines))
    table = score(tmp_path, program, folder / "table.csv")
    assert set(table.index) == {"a", "b", "c"}
    assert np.isnan(table.loc["a", "sc_rmsd"]) and table.loc["b", "sc_rmsd"] < 0.01 < table.loc["c", "sc_rmsd"]


def test_our_own_table_is_read_back(tmp_path, natives, program):
    first = score(tmp_path, program, structures(tmp_path / "made", natives))
    shutil.move(tmp_path / "scored", tmp_path / "first")
    second = score(tmp_path, program, tmp_path / "first" / "designs.csv")
    columns = ["sc_tm", "plddt", "sequence", "length"]
    pd.testing.assert_frame_equal(first[columns], second[columns], atol=1e-3)


def test_backbones_without_sequence_need_a_designer(tmp_path, natives, program, capsys):
    for name, (sequence, backbone) in natives.items():
        write_structure(tmp_path / "made" / f"{name}.pdb", "G" * len(sequence), backbone)
    words = ["evaluate", "designs", tmp_path / "made", "--out", tmp_path / "scored", "--config", program]
    assert main([*map(str, words)]) == 2
    assert "evaluation.inverse_folding_backend: backbones have no sequence" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,length\nx,5\n", "has no column sequence or file; its columns are name, length"),
        ("a.csv", "id,sequence,file\nx,,\n", "row 1 (x): neither a sequence nor a file"),
        ("a.csv", "id,sequence\nx,MK1\n", "row 1 (x)"),
        ("a.csv", "id,sequence\n", "a.csv: contains no design"),
        ("a.csv", "id,file\nx,nowhere.pdb\n", "nowhere.pdb: no such file"),
        ("a.fasta", ">a\nMK*T\n", "is a stop codon"),
    ],
)
def test_what_is_no_design_is_refused_in_one_line(tmp_path, program, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    words = ["evaluate", "designs", tmp_path / name, "--out", tmp_path / "scored", "--config", program]
    assert main([*map(str, words)]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "scored" / "designs.csv").exists()
