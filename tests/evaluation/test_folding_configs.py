"""config/folding_*.yaml and inverse_folding_*.yaml, run unchanged, with mocks of the programs.

A mock refuses the inputs and options that its program refuses, and writes the same files: Boltz-2
(``boltz/data/parse/fasta.py``, ``data/write/pdb.py``, ``writer.py``), Chai-1 (``chai_lab/chai1.py``, and the columns of
modelcif 1.8, with which it writes), ColabFold 1.5 (names of its results), ProteinMPNN (recorded from the package
proteinmpnn 0.1.3, which ``test_proteinmpnn_itself`` runs if it is installed).
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.evaluation.backends.command import CommandBackend, read_backbone
from dplm2.evaluation.backends.folding import predict
from dplm2.evaluation.backends.sequence_design import proteinmpnn
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.settings import load
from dplm2.settings.evaluation import CommandSettings, ProteinMpnnSettings

ROOT = Path(__file__).parents[2]
PROGRAMS = ("boltz", "chai", "colabfold")
SEQUENCES = ["ACDEFGHIKL", "MNPQRSTVWYAC", "GAGAGA"]

STAND_INS = '''\
import argparse, sys
from pathlib import Path

NAMES = dict(zip("ACDEFGHIKLMNPQRSTVWY", "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP "
                 "TYR".split()))
CIF = ("group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_seq_id auth_seq_id pdbx_PDB_ins_code "
       "label_asym_id Cartn_x Cartn_y Cartn_z occupancy label_entity_id auth_asym_id auth_comp_id B_iso_or_equiv "
       "pdbx_PDB_model_num").split()


def entries(fasta):
    lines = fasta.read_text().split("\\n")
    assert lines[-1] == "" and all(lines[:-1]), "empty lines"
    return [(header[1:], sequence) for header, sequence in zip(lines[:-1:2], lines[1::2], strict=True)]


def atoms(sequence):
    """Number, name, residue's name and index, position; the place of an atom tells which residue of what it is."""
    number = 0
    for index, letter in enumerate(sequence):
        for place, name in enumerate(("N", "CA", "C", "O", "CB")[: 4 if letter == "G" else 5]):
            number += 1
            yield number, name, NAMES[letter], index, (float(index), float(place), float(ord(letter)))


def pdb(sequence, plddt):
    """A PDB file with the same B factor at all atoms of a residue."""
    return "".join(
        f"ATOM  {number:>5}  {name:<3} {residue:>3} A{index + 1:>4}    {x:>8.3f}{y:>8.3f}{z:>8.3f}{1:>6.2f}"
        f"{plddt(index):>6.2f}          {name[0]:>2}  \\n"
        for number, name, residue, index, (x, y, z) in atoms(sequence)
    )


def boltz(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["predict"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out_dir", type=Path, required=True)
    parser.add_argument("--output_format", choices=["pdb", "mmcif"], default="mmcif")
    parser.add_argument("--diffusion_samples", type=int, default=1)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args(words)
    assert given.output_format == "pdb" and given.diffusion_samples == 1
    out = given.out_dir / f"boltz_results_{given.data.stem}"
    for path in sorted(given.data.iterdir()):
        assert path.suffix == ".fasta"
        [(header, sequence)] = entries(path)
        chain, kind, alignment = header.split("|")
        assert (chain, kind) == ("A", "protein") and alignment == "empty", "Missing MSA's in input"
        folder, name = out / "predictions" / path.stem, f"{path.stem}_model_0"
        for place in (folder, out / "processed" / "structures", out / "msa"):
            place.mkdir(parents=True, exist_ok=True)
        (out / "processed" / "structures" / f"{path.stem}.npz").touch()
        (folder / f"confidence_{name}.json").write_text("{}")
        (folder / f"plddt_{name}.npz").touch()
        text = pdb(sequence, lambda index: 50 + index) + "END".ljust(80) + "\\n" + " " * 80
        (folder / f"{name}.pdb").write_text(text)


def chai_lab(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["fold"])
    parser.add_argument("fasta", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--num-diffn-samples", type=int, default=5)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args(words)
    assert not given.out.exists() or not any(given.out.iterdir()), "Output directory is not empty."
    [(header, sequence)] = entries(given.fasta)
    kind, _, name = header.partition("|")
    assert kind == "protein" and name.startswith("name=")
    given.out.mkdir(exist_ok=True)
    for model in range(given.num_diffn_samples):
        lines = ["data_model", "loop_", *(f"_atom_site.{column}" for column in CIF)]
        for number, name, residue, index, (x, y, z) in atoms(sequence):
            lines.append(
                f"ATOM {number} {name[0]} {name} . {residue} {index + 1} {index + 1} ? A {x:.3f} {y:.3f} {z:.3f} 1.000 "
                f"1 A {residue} {50 + index + (0 if name == 'CA' else 9):.3f} 1"
            )
        (given.out / f"pred.model_idx_{model}.cif").write_text("\\n".join([*lines, "#", ""]))
        (given.out / f"scores.model_idx_{model}.npz").touch()


def colabfold_batch(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("input", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--msa-mode", choices=["mmseqs2_uniref_env", "mmseqs2_uniref", "single_sequence"])
    parser.add_argument("--model-type", choices=["auto", "alphafold2", "alphafold2_ptm"], default="auto")
    parser.add_argument("--num-models", type=int, choices=[1, 2, 3, 4, 5], default=5)
    parser.add_argument("--random-seed", type=int, default=0)
    given = parser.parse_args(words)
    assert given.msa_mode == "single_sequence" and given.input.suffix == ".fasta"
    for name, sequence in entries(given.input):
        for rank in range(1, given.num_models + 1):
            kind = f"rank_{rank:03d}_{given.model_type}_model_{rank}_seed_{given.random_seed:03d}"
            text = "MODEL     1\\n" + pdb(sequence, lambda index: 50 + index) + "TER\\nENDMDL\\nEND\\n"
            (given.results / f"{name}_unrelaxed_{kind}.pdb").write_text(text)
            (given.results / f"{name}_scores_{kind}.json").write_text("{}")
        (given.results / f"{name}.done.txt").touch()
        (given.results / f"{name}_plddt.png").touch()
    (given.results / "config.json").write_text("{}")


def proteinmpnn(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--pdb-path", type=Path)
    parser.add_argument("--pdb-path-chains", default="")
    parser.add_argument("--out-folder", type=Path, required=True)
    parser.add_argument("--model-name", default="v_48_020")
    parser.add_argument("--num-seq-per-target", type=int, default=1)
    parser.add_argument("--sampling-temp", default="0.1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=1)
    given = parser.parse_args(words)
    assert (given.model_name, given.sampling_temp, given.seed, given.batch_size) == ("v_48_020", "0.1", 38, 1)
    lines = [line for line in given.pdb_path.read_text().split("\\n") if line[:4] == "ATOM"]
    assert {line[21] for line in lines} == {given.pdb_path_chains} and {line[17:20] for line in lines} == {"ALA"}
    places = {}  # of the C-alpha atoms, by the residue's number
    for line in lines:
        if line[12:16] == " CA ":
            places[int(line[22:26])] = float(line[30:38])
    assert list(places) == list(range(1, len(places) + 1)) and len(lines) == 4 * len(places)
    text = (
        f">{given.pdb_path.stem}, score=2.1099, global_score=2.1099, fixed_chains=[], designed_chains="
        f"['{given.pdb_path_chains}'], model_name={given.model_name}, git_hash=unknown, seed={given.seed}"
        f"\\n{'A' * len(places)}"
    )
    for sample in range(1, given.num_seq_per_target + 1):
        # Which place and which sample it is for, in letters.
        sequence = "".join("CDEFGHIKLM"[(int(place) + sample) % 10] for place in places.values())
        text += f"\\n>T={given.sampling_temp}, sample={sample}, score=1.0483, global_score=1.0483, seq_recovery=0.0492"
        text += f"\\n{sequence}"
    (given.out_folder / "seqs").mkdir(parents=True)
    (given.out_folder / "seqs" / f"{given.pdb_path.stem}.fa").write_text(text)  # no line break at its end


verb, option, environment, program, *words = sys.argv[1:]
assert (verb, option) == ("run", "--name")
assert program == {"chai": "chai-lab", "colabfold": "colabfold_batch"}.get(environment, environment)
with Path(__file__).with_suffix(".log").open("a") as log:
    log.write(f"{program}\\n")
programs = {"boltz": boltz, "chai-lab": chai_lab, "colabfold_batch": colabfold_batch, "proteinmpnn": proteinmpnn}
programs[program](words)
'''


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A `conda` on PATH that runs the mocks; returns the file in which runs are recorded."""
    conda = tmp_path / "bin" / "conda"
    conda.parent.mkdir()
    conda.write_text(f"#!{sys.executable}\n{STAND_INS}")
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", str(conda.parent), prepend=":")
    return conda.with_suffix(".log")


def backend(program: str) -> CommandBackend:
    settings = load(ROOT / "config" / f"folding_{program}.yaml").evaluation
    assert settings.folding_backend == "command"
    return CommandBackend(settings.command)


@pytest.mark.parametrize("program, expected_runs", [("boltz", 1), ("chai", 3), ("colabfold", 1)])
def test_configuration_folds(program, expected_runs, runs, tmp_path):
    results = predict(backend(program), [*SEQUENCES, SEQUENCES[0]], tmp_path / "kept")
    for sequence, result in zip([*SEQUENCES, SEQUENCES[0]], results, strict=True):
        index, letters = np.arange(len(sequence)), [ord(letter) for letter in sequence]
        for place in range(4):  # N, CA, C, O
            expected = np.stack([index, np.full_like(index, place), letters], axis=-1)
            np.testing.assert_array_equal(result.backbone[:, place], expected)
        np.testing.assert_allclose(result.plddt, 50 + index)
    # Boltz and ColabFold load their weights once for all sequences.
    assert len(runs.read_text().splitlines()) == expected_runs


def inverse_folding() -> ProteinMpnnSettings:
    settings = load(ROOT / "config" / "inverse_folding_proteinmpnn.yaml").evaluation
    assert settings.inverse_folding_backend == "proteinmpnn"
    return settings.proteinmpnn


def backbone_sample(backbone: np.ndarray) -> EvaluatedSample:
    return EvaluatedSample("x", "model", "backbone", "", backbone=backbone)


def test_configuration_designs(runs):
    places = [np.arange(12), np.array([3, 1, 4])]
    samples = [backbone_sample(np.tile(x[:, None, None], (1, 4, 3)).astype(np.float32)) for x in places]
    assert proteinmpnn(samples, inverse_folding()) == [["DEFGHIKLMCDE"], ["GEH"]]
    assert proteinmpnn(samples[1:], inverse_folding().replaced(sequences=3)) == [["GEH", "HFI", "IGK"]]
    assert runs.read_text().splitlines() == ["proteinmpnn"] * 3


def test_design_without_the_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    sample = backbone_sample(np.zeros((3, 4, 3), dtype=np.float32))
    with pytest.raises(DPLM2Error, match=r"evaluation\.proteinmpnn\.template: the program 'conda' is not on PATH"):
        proteinmpnn([sample], inverse_folding())


@pytest.mark.skipif(shutil.which("proteinmpnn") is None, reason="needs ProteinMPNN: envs/proteinmpnn.yaml")
def test_proteinmpnn_itself():
    native = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"  # ubiquitin
    sample = backbone_sample(read_backbone(ROOT / "data" / "demo" / "motifs" / "1ubq_A.bcif.gz")[0])
    template = inverse_folding().template.removeprefix("conda run --name proteinmpnn ")
    settings = inverse_folding().replaced(template=template, sequences=4)
    designs = proteinmpnn([sample], settings)
    assert designs == proteinmpnn([sample], settings)
    [sequences] = designs
    assert len(set(sequences)) == 4
    recovery = np.mean([one == other for sequence in sequences for one, other in zip(sequence, native, strict=True)])
    assert 0.3 < recovery < 0.7


@pytest.mark.parametrize("program", PROGRAMS)
def test_environment_of_each_folding_program_exists(program):
    template = backend(program).settings.template
    assert template.startswith(f"conda run --name {program} ")
    text = (ROOT / "envs" / f"{program}.yaml").read_text(encoding="utf-8")
    assert f"conda env create --name {program} --file envs/{program}.yaml" in text
    assert yaml.safe_load(text)["dependencies"]


def test_environment_of_proteinmpnn_exists():
    assert inverse_folding().template.startswith("conda run --name proteinmpnn proteinmpnn ")
    assert load(ROOT / "config" / "benchmark.yaml").evaluation.proteinmpnn == inverse_folding()
    text = (ROOT / "envs" / "proteinmpnn.yaml").read_text(encoding="utf-8")
    assert "conda env create --name proteinmpnn --file envs/proteinmpnn.yaml" in text
    [packages] = [entry["pip"] for entry in yaml.safe_load(text)["dependencies"] if isinstance(entry, dict)]
    assert any(package.startswith("proteinmpnn ") for package in packages)


@pytest.mark.parametrize("below", ["config.yaml", "config/paper_650m.yaml"])
def test_inverse_folding_configuration_can_be_combined(below):
    whole = load([ROOT / below, ROOT / "config" / "inverse_folding_proteinmpnn.yaml"])
    assert whole.evaluation.proteinmpnn == inverse_folding()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("below", ["config.yaml", "config/benchmark.yaml", "config/paper_650m.yaml"])
def test_configuration_can_be_combined(program, below):
    evaluation = load([ROOT / below, ROOT / "config" / f"folding_{program}.yaml"]).evaluation
    assert (evaluation.folding_backend, evaluation.esmfold) == ("command", None)
    assert evaluation.command == backend(program).settings


def test_backend_that_is_not_selected_has_no_settings():
    command = {"folding_backend": "command", "command": {"template": "x {fasta} {out}"}}
    chosen = load({"evaluation": command | {"esmfold": None, "self": None}}).evaluation
    assert (chosen.command, chosen.esmfold) == (CommandSettings.make(template="x {fasta} {out}"), None)
    with pytest.raises(ConfigError, match="folding_backend"):
        load({"evaluation": command | {"esmfold": {"recycles": 1}}})
