"""``dplm2 generate``: output files, refused input, and resumption after an interruption."""

import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from biotite.sequence import ProteinSequence
from biotite.sequence.io.fasta import FastaFile
from biotite.structure.io import pdb, pdbx

from dplm2.cli import main
from dplm2.generation import run as running
from dplm2.generation.model import DPLM2
from dplm2.generation.samples import read_samples
from dplm2.language.network import MultimodalEsm
from dplm2.settings.generation import GenerationSettings

COMMON = ["--set", "lengths=[6,9,12]", "samples=2", "steps=4", "token_budget=30"]


def generate(folders, out, task="co-generation", *others):
    arguments = others or COMMON
    return main(["generate", task, "--model", str(folders / "model"), "--out", str(out), "--device", "cpu", *arguments])


def test_writes_samples_structures_and_run_record(folders, tmp_path, capsys):
    assert generate(folders, tmp_path / "out", "co-generation", *COMMON, "format=pdb") == 0
    assert f"samples: {tmp_path / 'out'}" in capsys.readouterr().out
    rows = read_samples(tmp_path / "out").to_pylist()
    assert [row["length"] for row in rows] == [6, 6, 9, 9, 12, 12] and {row["model"] for row in rows} == {"model"}
    assert sorted(p.stem for p in (tmp_path / "out/structures").iterdir()) == sorted(row["sample_id"] for row in rows)
    for row in rows:
        atoms = pdb.PDBFile.read(tmp_path / f"out/structures/{row['sample_id']}.pdb").get_structure(model=1)
        assert atoms[atoms.atom_name == "CA"].res_name.tolist() == [
            ProteinSequence.convert_letter_1to3(letter) for letter in row["sequence"]
        ]
        np.testing.assert_allclose(atoms.coord.ravel(), row["backbone"], atol=2e-3)
    note = json.loads((tmp_path / "out/run.json").read_text())
    assert note["samples"] == 6 and set(note["inputs"]) == {"model", "tokenizer"} and note["settings"]["steps"] == 4
    written = ["designs.csv", "designs.fasta", "run.json", "samples.parquet", "structures"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == written


@pytest.mark.parametrize(
    ("task", "structure_format", "ending"),
    [("co-generation", "pdb", "pdb"), ("co-generation", "mmcif", "cif"), ("co-generation", "bcif", "bcif"),
     ("co-generation", "none", None), ("sequence", None, None), ("backbone", "pdb", "pdb")],
)  # fmt: skip
def test_designs_as_table_fasta_and_structures(folders, tmp_path, task, structure_format, ending):
    options = [f"format={structure_format}"] if structure_format else []
    assert generate(folders, tmp_path, task, *COMMON, *options, "likelihood=true") == 0
    rows = read_samples(tmp_path).to_pylist()
    table = pd.read_csv(tmp_path / "designs.csv", keep_default_na=False)
    assert table["id"].tolist() == [row["sample_id"] for row in rows]
    assert table["sequence"].tolist() == [row["sequence"] or "" for row in rows]
    assert table["length"].tolist() == [6, 6, 9, 9, 12, 12]
    np.testing.assert_allclose(
        table["log_likelihood"].astype(float), [row["log_likelihood"] for row in rows], rtol=1e-5
    )
    assert (table["log_likelihood"].astype(float) < 0).all()
    if any(row["tokenizer_plddt"] for row in rows):
        means = [np.mean(row["tokenizer_plddt"]) for row in rows]
        np.testing.assert_allclose(table["tokenizer_plddt"].astype(float), means, rtol=1e-5)
    fasta = FastaFile.read(tmp_path / "designs.fasta") if task != "backbone" else {}
    assert {header.split()[0]: text for header, text in fasta.items()} == {
        row["sample_id"]: row["sequence"] for row in rows if row["sequence"]
    }
    assert table["file"].tolist() == [f"structures/{row['sample_id']}.{ending}" if ending else "" for row in rows]
    for file, row in zip(table["file"], rows, strict=True):
        if ending == "pdb":
            atoms = pdb.PDBFile.read(tmp_path / file).get_structure(model=1)
        elif ending:
            kind = pdbx.CIFFile if ending == "cif" else pdbx.BinaryCIFFile
            atoms = pdbx.get_structure(kind.read(tmp_path / file), model=1)
        if ending:
            np.testing.assert_allclose(atoms.coord.ravel(), row["backbone"], atol=2e-3)


def test_the_likelihood_is_no_other_sample(folders, tmp_path):
    assert generate(folders, tmp_path / "a", "co-generation", *COMMON) == 0
    assert generate(folders, tmp_path / "b", "co-generation", *COMMON, "likelihood=true") == 0
    without, with_it = (read_samples(tmp_path / name) for name in "ab")
    for column in ("sequence", "structure_tokens", "backbone", "seed"):
        assert without[column] == with_it[column]
    assert without["log_likelihood"].null_count == 6 and with_it["log_likelihood"].null_count == 0


def test_another_format_replaces_the_files_and_keeps_those_of_others(folders, tmp_path):
    assert generate(folders, tmp_path, "co-generation", *COMMON) == 0
    (tmp_path / "structures" / "notes.txt").write_text("mine")
    assert generate(folders, tmp_path, "co-generation", *COMMON, "format=mmcif") == 0
    assert {path.suffix for path in (tmp_path / "structures").iterdir()} == {".cif", ".txt"}


def test_command_line_overrides_the_configuration(folders, tmp_path):
    section = {"task": "sequence", "lengths": [5], "samples": 3, "steps": 2}
    text = json.dumps({"seed": 7, "generation": {"one": section, "two": {**section, "task": "backbone"}}})
    assert generate(folders, tmp_path / "a", "sequence", "--config", text, "--name", "one") == 0
    assert generate(folders, tmp_path / "b", "sequence", "--config", text, "--set", "samples=1") == 0
    a, b = (read_samples(tmp_path / name).to_pylist() for name in "ab")
    assert len(a) == 3 and len(b) == 1 and a[0]["sequence"] == b[0]["sequence"]
    assert generate(folders, tmp_path / "c", "sequence", "--config", text, "--seed", "8") == 0
    assert [row["sequence"] for row in read_samples(tmp_path / "c").to_pylist()] != [row["sequence"] for row in a]


@pytest.mark.parametrize(
    ("task", "arguments", "status", "message"),
    [
        ("folding", ["--set", "lengths=[5]"], 2, "lengths: has no effect on this task"),
        ("folding", ["--set", "steps"], 2, "--set steps: must be KEY=VALUE"),
        ("folding", ["--chains", "nowhere"], 1, "nowhere: no such file or folder"),
        ("folding", [], 2, "task folding needs inputs"),
        ("scaffolding", [], 1, "task scaffolding needs motif problems"),
        ("co-generation", ["--set", "colour=red"], 2, "unknown key 'colour'; allowed: amino_acids"),
        (
            "folding",
            ["--config", '{"generation": {"a": {"task": "sequence"}}}', "--name", "a"],
            2,
            "has the task sequence",
        ),
        (
            "backbone",
            ["--config", '{"generation": {"a": {"task": "sequence"}}}'],
            2,
            "section generation has no task backbone; available: a (sequence)",
        ),
        (
            "sequence",
            ["--config", '{"generation": {"a": {"task": "sequence"}, "b": {"task": "sequence"}}}'],
            2,
            "--name: the section generation contains a, b; choose one",
        ),
        (
            "folding",
            ["--config", '{"generation": {"a": {"task": "folding", "dataset": "test"}}}'],
            2,
            "task folding needs the dataset test: give its folder with --chains",
        ),
        (
            "sequence",
            ["--set", "lengths=[5]", "format=bcif"],
            2,
            "format: has no effect on this task (sequence), only on co-",
        ),
    ],
)
def test_wrong_use_is_a_one_line_error(folders, tmp_path, capsys, task, arguments, status, message):
    assert generate(folders, tmp_path / "out", task, "--seed", "0", *arguments) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_interrupted_run_resumes_with_the_same_samples(folders, tmp_path, monkeypatch, capsys):
    assert generate(folders, tmp_path / "whole") == 0
    decode, calls = DPLM2._decoded, []

    def killed(self, *arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        return decode(self, *arguments)

    monkeypatch.setattr(DPLM2, "_decoded", killed)
    assert generate(folders, tmp_path / "cut") == 130
    assert not (tmp_path / "cut/samples.parquet").exists()
    made = []

    def counted(self, requests, *others):
        made.extend(requests)
        return decode(self, requests, *others)

    monkeypatch.setattr(DPLM2, "_decoded", counted)
    capsys.readouterr()
    assert generate(folders, tmp_path / "cut") == 0
    assert "resuming: 2 of 6 samples are already finished" in capsys.readouterr().out and len(made) == 4
    assert read_samples(tmp_path / "cut").equals(read_samples(tmp_path / "whole"))


def test_signal_stops_between_steps_and_keeps_finished_samples(folders, tmp_path, monkeypatch):
    advance, count = running.DPLM2.run, []

    def signalled(self, *arguments, before_step, **others):
        def step():
            count.append(1)
            if len(count) == 6:
                signal.raise_signal(signal.SIGTERM)
            before_step()

        return advance(self, *arguments, before_step=step, **others)

    monkeypatch.setattr(running.DPLM2, "run", signalled)
    assert generate(folders, tmp_path / "out") == 75
    assert len(count) == 6 and len(list((tmp_path / "out/.unfinished").rglob("*.parquet"))) == 1


def test_samples_with_other_settings_are_not_reused(folders, tmp_path, monkeypatch, capsys):
    state = ["--state", str(tmp_path / "state")]
    decode = DPLM2._decoded
    calls = []

    def killed(self, *arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return decode(self, *arguments)

    monkeypatch.setattr(DPLM2, "_decoded", killed)
    assert generate(folders, tmp_path / "out", "co-generation", *state, *COMMON) == 130
    monkeypatch.setattr(DPLM2, "_decoded", decode)
    for change in (["nucleus=0.5"], []):
        assert generate(folders, tmp_path / f"out{len(change)}", "co-generation", *state, *COMMON, *change) == 0
        assert ("resuming" in capsys.readouterr().out) == (not change)


def test_unfinished_samples_are_kept_by_all_that_decides_them(folders, tmp_path, monkeypatch):
    class Begun(Exception):
        pass

    def rows(model, requests, settings, seed, out, state, name):
        found.append(state.name)
        raise Begun

    def begin(seed=0, model="model", **changed):
        settings = GenerationSettings.make(**{"task": "co-generation", "lengths": [6], "samples": 2, **changed})
        with pytest.raises(Begun):
            running.generate_folder(tmp_path / "tiny" / model, tmp_path / "out", settings, seed=seed, state=tmp_path)

    found: list[str] = []
    monkeypatch.setattr(running, "_rows", rows)
    shutil.copytree(folders, tmp_path / "tiny")
    shutil.copytree(folders / "model", tmp_path / "tiny" / "other")
    network = MultimodalEsm.from_pretrained(tmp_path / "tiny" / "other")
    network.model.lm_head.bias.data += 1
    network.save_pretrained(tmp_path / "tiny" / "other")
    begin()
    begin(samples=3, token_budget=99, format="pdb")  # those that are there are the same
    assert len(set(found)) == 1
    begin(seed=1)
    begin(model="other")
    for changed in ({"trajectory": 2}, {"nucleus": 0.5}, {"unmasking": "deterministic"}, {"precision": "bfloat16"}):
        begin(**changed)
    assert len(set(found)) == 7


FASTA = ">one\nACDEFGHIKLMNPQRSTVWY\n>two\nMKVLAAGIV\n"
TABLE = "position,residue,structure_token\n1,A,3\n2,,\n3,G,\n4,,5\n"


@pytest.mark.parametrize(
    ("example", "lengths", "structures"),
    [
        ("co-generation --set lengths=[7,9] samples=2 steps=3", [7, 7, 9, 9], True),
        ("co-generation --config config.yaml --name designs", [8], True),
        ("sequence --set lengths=[10] samples=3 steps=3", [10] * 3, False),
        ("sequence --config config.yaml", [6, 6], False),
        ("sequence --config config.yaml --set samples=1 format=pdb", [6], False),
        ("backbone --set lengths={minimum:\xa07,maximum:\xa07} samples=5 steps=3", [7] * 5, True),
        ("folding --chains proteins.fasta --set steps=3", [20, 9], True),
        ("folding --chains 1ubq.bcif.gz --set fixed=1-30,45-76 steps=3", [76], True),
        ("inverse-folding --chains 1ubq.bcif.gz designs --set samples=2 steps=3", [76] * 4, True),
        ("scaffolding --problems motif.yaml --references pdb --set samples=2 steps=3", None, True),
        ("infilling --chains 1ubq.bcif.gz --set mask_sequence=8-11 mask_structure=8-11 steps=3", [76], True),
        ("infilling --chains 1ubq.bcif.gz --set renoise=0.3 samples=2 steps=3", [76] * 2, True),
        ("infilling --problems table.csv --set steps=3", [4], True),
    ],
)
def test_help_examples_run(folders, ubiquitin, tmp_path, monkeypatch, capsys, example, lengths, structures):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proteins.fasta").write_text(FASTA)
    (tmp_path / "table.csv").write_text(TABLE)
    for folder in ("designs", "pdb"):
        (tmp_path / folder).mkdir()
        shutil.copy(ubiquitin, tmp_path / folder / "other.bcif.gz")
    shutil.copy(ubiquitin, tmp_path / "1ubq.bcif.gz")
    (tmp_path / "motif.yaml").write_text("{reference: other.bcif.gz, contig: '2-5,A10-15,3'}")
    tasks = {"one": {"task": "sequence", "lengths": [6], "samples": 2, "steps": 2}}
    tasks["designs"] = {"task": "co-generation", "lengths": [8], "samples": 1, "steps": 2}
    (tmp_path / "config.yaml").write_text(json.dumps({"generation": tasks}))
    task, *arguments = (word.replace("\xa0", " ") for word in example.split(" "))
    assert generate(folders, tmp_path / "out", task, *arguments) == 0
    rows = read_samples(tmp_path / "out").to_pylist()
    found = [row["length"] for row in rows]
    assert found == lengths if lengths is not None else all(11 <= length <= 14 for length in found)
    assert f"({len(rows)} of {min(found)}" in capsys.readouterr().out
    assert any((tmp_path / "out/structures").iterdir()) == structures
