"""Tasks from end to end, with a tiny model of random weights and real structures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from biotite.structure.io import pdb, pdbx

from dplm2 import DPLM2, StructureTokenizer
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.generation.samples import read_samples, write_rows, write_trajectory
from dplm2.generation.selection import best_of, log_likelihoods
from dplm2.generation.task import Given, Target, parse_residues
from dplm2.generation.tasks import TASKS
from dplm2.language.guidance import composition
from dplm2.language.sampling import sample as draw
from dplm2.language.schedule import sampler_settings
from dplm2.settings.generation import GenerationSettings
from dplm2.structures import store
from dplm2.structures.molecules import protein_chains
from dplm2.structures.reading import read_structure
from dplm2.structures.writing import write_structure

MOTIF = """\
name: helix
reference: {reference}
contig: 3-9,A23-34,4-8
"""
UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
AMINO_ACIDS = set("ACDEFGHIKLMNPQRSTVWY")


@pytest.fixture(scope="module")
def backbone(ubiquitin):
    (chain,) = protein_chains(read_structure(ubiquitin))
    return chain.backbone_RAX


@pytest.fixture(scope="module")
def helix(ubiquitin, tmp_path_factory):
    path = tmp_path_factory.mktemp("motif") / "helix.yaml"
    path.write_text(MOTIF.format(reference=ubiquitin))
    return path


# Tasks --------------------------------------------------------------------------------------------------------------


def test_co_generation_takes_lengths_from_list_range_or_dataset(model):
    listed = model.generate("co-generation", lengths=[5, 9], samples=2, steps=3)
    assert [(s.sample_id, s.length) for s in listed] == [
        ("length-5_0000", 5), ("length-5_0001", 5), ("length-9_0000", 9), ("length-9_0001", 9)
    ]  # fmt: skip
    for sample in listed:
        assert sample.backbone.shape == (sample.length, 4, 3) and np.isfinite(sample.backbone).all()
        assert set(sample.sequence) <= AMINO_ACIDS and sample.tokenizer_plddt is None
        decoded = model.tokenizer.decode(sample.structure_tokens)
        np.testing.assert_allclose(sample.backbone, decoded.backbone, atol=1e-3)
    drawn = [s.length for s in model.generate("sequence", lengths={"minimum": 3, "maximum": 6}, samples=40, steps=1)]
    assert set(drawn) == {3, 4, 5, 6}


def test_only_one_track_is_generated(model):
    (sequence,) = model.generate("sequence", lengths=[6], samples=1, steps=3)
    assert sequence.structure_tokens is None and sequence.backbone is None and len(sequence.sequence) == 6
    (backbone,) = model.generate("backbone", lengths=[6], samples=1, steps=3)
    assert backbone.sequence is None and backbone.backbone.shape == (6, 4, 3)
    with pytest.raises(DPLM2Error, match="without structure"):
        sequence.write("x.pdb")


def test_folding_keeps_the_sequence_inverse_folding_the_structure(model, backbone):
    (folded,) = model.generate("folding", sequences={"ubq": UBIQUITIN}, steps=4)
    assert (folded.problem, folded.sequence) == ("ubq", UBIQUITIN)
    assert folded.given["sequence"].all() and not folded.given["structure"].any()
    (designed,) = model.generate("inverse-folding", backbones=[backbone], steps=4)
    assert np.array_equal(designed.structure_tokens, model.tokenizer.encode(backbone))
    assert set(designed.sequence) <= AMINO_ACIDS


def test_backbones_to_design_are_one_array_several_or_a_sample(model, backbone):
    (expected,) = model.generate("inverse-folding", backbones=[backbone], steps=4)
    (alone,) = model.design(backbone, steps=4)
    (again,) = model.design(alone, steps=4)
    assert alone.sequence == expected.sequence and len(again.sequence) == len(backbone)
    assert [design.problem for design in model.design({"a": backbone, "b": backbone}, steps=1)] == ["a", "b"]
    assert len(model.design([backbone, backbone[:20]], steps=1)) == 2


def test_several_designs_of_a_backbone_differ(model, backbone):
    designs = model.generate("inverse-folding", backbones=[backbone], samples=3, steps=4)
    assert len({design.sequence for design in designs}) == 3
    alone = model.generate("inverse-folding", backbones=[backbone], steps=4)
    assert alone[0].settings["strategy"] == "argmax" and designs[0].settings["strategy"] == "annealing@1.0:0.1"


def test_fixed_residues_of_folding_and_inverse_folding(model, ubiquitin):
    (designed,) = model.generate("inverse-folding", chains=[ubiquitin], fixed="1-10,76", steps=3)
    assert designed.sequence[:10] == UBIQUITIN[:10] and designed.sequence[75] == "G"
    assert designed.given["sequence"].tolist() == [n < 10 or n == 75 for n in range(76)]
    (folded,) = model.generate("folding", chains=[ubiquitin], fixed="2-4", steps=3)
    whole = model.generate("inverse-folding", chains=[ubiquitin], steps=1)[0].structure_tokens
    assert np.array_equal(folded.structure_tokens[1:4], whole[1:4])
    with pytest.raises(DPLM2Error, match="1ubq_A: residues 70-77 of a protein of 76 residues"):
        model.generate("inverse-folding", chains=[ubiquitin], fixed="70-77")
    with pytest.raises(DPLM2Error, match="need a structure, but only a sequence"):
        model.generate("folding", sequences=["ACD"], fixed="1")


def test_unknown_residues_are_designed_even_if_fixed(model):
    tokens, settings = np.arange(6) % 4, GenerationSettings.make(task="inverse-folding", fixed="1-4")
    (request,) = TASKS[settings.task].requests(
        settings, model.network.vocabulary, 0, Given((), [Target("p", "AXCXXD", tokens)], model.tokenizer.encode)
    )[:1]
    vocabulary, ids = model.network.vocabulary, request.conditioning.tokens["sequence"]
    assert request.conditioning.fixed["sequence"].tolist() == [True, False, True, False, False, False]
    assert (ids[[1, 3, 4, 5]] == vocabulary.mask_sequence).all()
    assert ids[[0, 2]].tolist() == vocabulary.encode_sequence("AC").tolist()


def test_missing_residues_are_generated(model, backbone):
    gap = backbone.copy()
    gap[20:25, 1] = np.nan
    (designed,) = model.generate("inverse-folding", backbones={"gap": gap}, steps=3)
    assert designed.given["structure"].tolist() == [not 20 <= n < 25 for n in range(76)]
    assert len(designed.sequence) == 76


@pytest.mark.parametrize("motif_tokens", ["reference", "motif"])
def test_scaffolding_keeps_the_motif(model, helix, backbone, motif_tokens):
    samples = model.generate("scaffolding", problems=[helix], samples=6, steps=3, motif_tokens=motif_tokens)
    own = np.full_like(backbone, np.nan)
    own[22:34] = backbone[22:34]
    tokens = model.tokenizer.encode(backbone if motif_tokens == "reference" else own)[22:34]
    assert len({sample.length for sample in samples}) > 1
    for sample in samples:
        left = sample.motif.positions[0]
        assert sample.motif.contig == f"{left},A23-34,{sample.length - left - 12}" and 3 <= left <= 9
        assert "".join(sample.sequence[p] for p in sample.motif.positions) == UBIQUITIN[22:34]
        assert np.array_equal(sample.structure_tokens[sample.motif.positions], tokens)
        np.testing.assert_array_equal(sample.motif.backbone, backbone[22:34])


@pytest.mark.parametrize("ending", ["pdb", "cif"])
def test_reference_may_have_any_format(model, tmp_path, backbone, ending):
    write_structure(tmp_path / f"own.{ending}", UBIQUITIN, backbone)
    path = tmp_path / "one.yaml"
    path.write_text(MOTIF.format(reference=f"own.{ending}"))
    (sample,) = model.generate("scaffolding", problems=[path], samples=1, steps=3)
    assert "".join(sample.sequence[p] for p in sample.motif.positions) == UBIQUITIN[22:34]
    np.testing.assert_allclose(sample.motif.backbone, backbone[22:34], atol=1e-3)


@pytest.mark.parametrize("given", ["sequence", "structure"])
def test_motif_may_be_given_on_one_track(model, tmp_path, ubiquitin, given):
    path = tmp_path / "one.yaml"
    path.write_text(MOTIF.format(reference=ubiquitin) + f"given: {given}\n")
    for sample in model.generate("scaffolding", problems=[path], samples=2, steps=3):
        inside = np.isin(np.arange(sample.length), sample.motif.positions)
        other = {"sequence": "structure", "structure": "sequence"}[given]
        assert np.array_equal(sample.given[given], inside) and not sample.given[other].any()


def test_a_contig_without_a_motif_is_refused(model, tmp_path, ubiquitin):
    path = tmp_path / "empty.yaml"
    path.write_text(f"reference: {ubiquitin}\ncontig: 8-12\n")
    with pytest.raises(DPLM2Error, match="problem empty: no motif"):
        model.generate("scaffolding", problems=[path], samples=1, steps=3)


def test_problems_that_cannot_be_solved_are_refused_before_anything_runs(
    model, tmp_path, helix, ubiquitin, monkeypatch
):
    monkeypatch.setattr(type(model.network), "hidden", None)
    for text, message in [
        (
            "contig: 3,A23-34,4\ntotal_length: 10",
            "problem bad: its motif of 12 residues exceeds the total length of 10",
        ),
        ("contig: 3,A70-80,4", "problem bad: its reference has no residue 77 in chain A"),
        ("contig: 3,B23-34,4", "problem bad: its reference has no chain B; available: A"),
    ]:
        bad = tmp_path / "bad.yaml"
        bad.write_text(f"reference: {ubiquitin}\n{text}\n")
        with pytest.raises(DPLM2Error, match=message):
            model.generate("scaffolding", problems=[helix, bad], steps=3)
    bad.write_text("reference: nowhere.pdb\ncontig: 3,A23-34,4\n")
    with pytest.raises(DPLM2Error, match="problem bad: its reference .*nowhere.pdb does not exist"):
        model.generate("scaffolding", problems=[helix, bad], steps=3)


def test_infilling_generates_any_part(model, ubiquitin):
    whole = model.generate("inverse-folding", chains=[ubiquitin], steps=1)[0].structure_tokens
    (filled,) = model.generate("infilling", chains=[ubiquitin], mask_sequence="8-11", mask_structure="9,70-76", steps=4)
    assert filled.given["sequence"].tolist() == [not 7 <= n < 11 for n in range(76)]
    assert filled.given["structure"].tolist() == [not (n == 8 or n >= 69) for n in range(76)]
    assert filled.sequence[:7] + filled.sequence[11:] == UBIQUITIN[:7] + UBIQUITIN[11:]
    assert np.array_equal(filled.structure_tokens[9:69], whole[9:69])
    with pytest.raises(DPLM2Error, match="1ubq_A: nothing to generate"):
        model.generate("infilling", chains=[ubiquitin])


def test_variants_differ_more_with_more_noise(model, ubiquitin):
    def changed(renoise, **others):
        settings = {"renoise": renoise, "samples": 4, "steps": 20, "remasking": "never", **others}
        samples = model.generate("infilling", chains=[ubiquitin], **settings)
        return [np.array([a != b for a, b in zip(s.sequence, UBIQUITIN, strict=True)]) for s in samples], samples

    little, samples = changed(0.1)
    assert all(mask.sum() <= 76 // 10 for mask in little) and all(sample.steps <= 2 for sample in samples)
    assert np.mean(little) < np.mean(changed(0.5)[0]) < np.mean(changed(1.0)[0])
    for mask in changed(0.9, mask_sequence="1-20", mask_structure="1-20")[0]:
        assert not mask[20:].any()
    assert all(sample.steps == 1 for sample in changed(0.02)[1])  # a step, of which the fraction is less than half


def test_variants_fill_unknown_residues_and_keep_all_others(model):
    tokens = np.array([0, 1, 2, 3, 0, -1, 2, 3, 0, 1])
    settings = GenerationSettings.make(task="infilling", renoise=0.5, mask_sequence="1-2")
    given = Given((), [Target("p", "ACD?FGHIKL", tokens)], model.tokenizer.encode)
    (request,) = TASKS["infilling"].requests(settings, model.network.vocabulary, 0, given)
    assert np.flatnonzero(~request.conditioning.fixed["sequence"]).tolist() == [0, 1, 3]
    assert np.flatnonzero(~request.conditioning.fixed["structure"]).tolist() == [5]


def test_residue_tables_are_read(model, tmp_path):
    rows = [(1, "M", 3), (2, "", 5), (3, "K", ""), (4, "", "")]
    frame = pd.DataFrame(rows, columns=["position", "residue", "structure_token"])
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "mix.csv", index=False)
    numbers = frame.replace("", None).astype({"position": int, "structure_token": float})
    numbers.to_parquet(tmp_path / "mix.parquet")
    for name in ("mix.csv", "mix.parquet"):
        (sample,) = model.generate("infilling", problems=[tmp_path / name], steps=3)
        assert sample.problem == "mix" and sample.sequence[0] == "M" and sample.sequence[2] == "K"
        assert sample.structure_tokens[:2].tolist() == [3, 5]
        assert sample.given["sequence"].tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("position,residue\n1,A\n", "structure_token is missing"),
        ("position,residue,structure_token\n1,A,\n3,A,\n", "positions must be 1 to 2"),
        ("position,residue,structure_token\n1,ALA,\n", "'ALA' is not the letter of a residue"),
        ("position,residue,structure_token\n1,A,x\n", r"\['x'\] is not a structure token"),
        ("position,residue,structure_token\n1,A,16\n", "structure token 16 is not in the codebook"),
    ],
)
def test_invalid_residue_tables_are_refused(model, tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DPLM2Error, match=message):
        model.generate("infilling", problems=[tmp_path / "t.csv"])


# Inputs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(backbone, tmp_path_factory):
    """A dataset of parts of ubiquitin, one of them with a gap, in two splits."""
    folder = tmp_path_factory.mktemp("chains")
    rows = []
    for name, start, stop, split in [("a_A", 0, 30, "train"), ("b_A", 20, 60, "test"), ("c_A", 40, 76, "test")]:
        part = backbone[start:stop].copy()
        part[5:7] = np.nan
        row = {"chain_id": name, "dataset": "d", "source_file": "f", "source_sha256": "0", "source_id": name}
        row |= {
            "author_chain": "A",
            "sequence": UBIQUITIN[start:stop],
            "length": stop - start,
            "observed": stop - start - 2,
        }
        row |= {"residue_index": list(range(start, stop)), "backbone": part.ravel().tolist(), "split": split}
        rows.append(row)
    store.write_table(folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=store.CHAINS))
    return folder


def test_chains_are_read_from_a_dataset(model, dataset):
    folded = model.generate("folding", chains=[dataset], steps=2)
    assert [(s.problem, s.sample_id, s.sequence) for s in folded] == [
        ("a_A", "a_A_0000", UBIQUITIN[:30]), ("b_A", "b_A_0000", UBIQUITIN[20:60]), ("c_A", "c_A_0000", UBIQUITIN[40:])
    ]  # fmt: skip
    designed = model.generate("inverse-folding", chains=[dataset], dataset="d", split="test", steps=2)
    assert [s.problem for s in designed] == ["b_A", "c_A"]
    assert all(s.given["structure"].tolist() == [not 5 <= n < 7 for n in range(s.length)] for s in designed)
    with pytest.raises(DPLM2Error, match="contains no protein chains in split validation"):
        model.generate("folding", chains=[dataset], dataset="d", split="validation")


def test_lengths_are_drawn_from_a_dataset(model, dataset):
    samples = model.generate("sequence", chains=[dataset], dataset="d", samples=30, steps=1)
    assert {s.length for s in samples} == {30, 40, 36}
    with pytest.raises(ConfigError, match="no chains are given"):
        model.generate("sequence", dataset="d", samples=30)
    with pytest.raises(ConfigError, match="takes no chains"):
        model.generate("sequence", chains=[dataset], samples=30)


def test_invalid_letters_and_mismatched_names_are_reported(model):
    with pytest.raises(DPLM2Error, match="odd: '1' is not an amino acid"):
        model.generate("folding", sequences={"odd": "AC1D"})
    samples = model.generate("folding", sequences={"a/b": "ACD", "a:b": "ACD", "a_b": "ACD"}, steps=1)
    assert [sample.problem for sample in samples] == ["a/b", "a:b", "a_b"]
    assert len({sample.sample_id for sample in samples}) == 3 and samples[2].sample_id == "a_b_0000"
    with pytest.raises(DPLM2Error, match="p: 3 letters for a backbone of 4 residues"):
        model.generate("infilling", sequences={"p": "ACD"}, backbones={"p": np.zeros((4, 3, 3))}, mask_sequence="1")
    with pytest.raises(ConfigError, match="task folding needs inputs"):
        model.generate("folding")


def test_residue_ranges_are_parsed():
    assert np.flatnonzero(parse_residues("2, 4-5", 6, "p")).tolist() == [1, 3, 4]
    assert parse_residues("all", 3, "p").all() and not parse_residues(None, 3, "p").any()


def test_unknown_residues_of_a_target_are_generated(model):
    (sample,) = model.generate("folding", sequences={"p": "A?CX"}, steps=2)
    assert sample.given["sequence"].tolist() == [True, False, True, True]
    assert sample.sequence[0] == "A" and sample.sequence[2:] == "CX" and sample.sequence[1] in AMINO_ACIDS
    assert Target("p", "A?CX", None).length == 4


def test_a_candidate_without_likelihood_is_never_the_best():
    nan = float("nan")
    assert best_of([nan, -3.0, -2.5, -2.5], range(4)) == 2
    assert best_of([0.0, nan], (1, 0)) == 0
    assert best_of([nan, nan, -9.0], (0, 1)) == 0  # nothing was generated: all are the same


# Choice, guidance, reproduction -------------------------------------------------------------------------------------


def test_best_of_keeps_the_candidate_of_highest_likelihood(model):
    options = {"lengths": [12], "samples": 3, "steps": 4}
    best, single = model.generate("co-generation", best_of=4, **options), model.generate("co-generation", **options)
    assert all(sample.log_likelihood is None for sample in single)
    # The first candidate is the sample generated with best_of 1, so that the best cannot be worse.
    settings = GenerationSettings.make(task="co-generation", **options)
    requests = model.requests(settings, 0)
    conditionings = [request.conditioning for request in requests]
    first = log_likelihoods(
        model.network, conditionings, draw(model.network, conditionings, sampler_settings(settings), 0), 0, 8192
    )
    assert all(b.log_likelihood >= f for b, f in zip(best, first, strict=True))
    assert any(b.log_likelihood > f for b, f in zip(best, first, strict=True))
    assert [b.sample_id for b in best] == [s.sample_id for s in single]


def test_likelihood_of_a_sample_does_not_depend_on_its_batch(model):
    settings = GenerationSettings.make(task="co-generation", lengths=[4, 9, 15], samples=1, steps=3)
    conditionings = [request.conditioning for request in model.requests(settings, 0)]
    samples = draw(model.network, conditionings, sampler_settings(settings), 0)
    together = log_likelihoods(model.network, conditionings, samples, 0, 8192)
    alone = log_likelihoods(model.network, conditionings, samples, 0, 1)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert all(value < 0 for value in together)


def test_callback_reaches_the_sampler(model):
    options = {"lengths": [60], "samples": 3, "steps": 10}
    guided = model.generate("sequence", adjust=composition({"W": 0.9}, strength=20.0), **options)
    free = model.generate("sequence", **options)
    assert sum(s.sequence.count("W") for s in guided) > 3 * max(10, sum(s.sequence.count("W") for s in free))


def test_samples_depend_only_on_seed_and_id(model):
    few = model.generate("co-generation", lengths=[7, 20], samples=2, steps=4, seed=3)
    many = model.generate("co-generation", lengths=[20, 7, 31], samples=5, steps=4, seed=3, token_budget=60)
    of_many = {sample.sample_id: sample.sequence for sample in many}
    assert all(of_many[sample.sample_id] == sample.sequence for sample in few)
    other = model.generate("co-generation", lengths=[7, 20], samples=2, steps=4, seed=4)
    assert [s.sequence for s in other] != [s.sequence for s in few]


@pytest.mark.parametrize("task", ["co-generation", "infilling", "scaffolding"])
def test_lengths_and_masks_depend_only_on_seed_and_sample(model, helix, ubiquitin, task):
    """Lengths, masked residues and spacer lengths do not depend on the number of samples."""
    options = {
        "co-generation": {"lengths": {"minimum": 3, "maximum": 900}},
        "infilling": {"renoise": 0.3},
        "scaffolding": {"problems": (str(helix),)},
    }[task]

    def drawn(seed, samples=8):
        settings = model.settled(GenerationSettings.make(task=task, samples=samples, steps=20, **options))
        requests = model.requests(settings, seed, [ubiquitin] if task == "infilling" else ())
        return [tuple(ids.tobytes() for ids in request.conditioning.tokens.values()) for request in requests]

    first = drawn(3)
    assert drawn(3) == first and drawn(3, samples=5) == first[:5]
    assert drawn(4) != first
    assert len(set(first)) > 1


def test_sample_records_its_seed_and_likelihoods_depend_on_the_run_seed(model):
    options = {"lengths": [12], "samples": 2, "steps": 2}
    runs = [model.generate("co-generation", seed=seed, **options) for seed in (0, 0, 1)]
    seeds = [[sample.seed for sample in run] for run in runs]
    assert seeds[0] == seeds[1] and len({*seeds[0], *seeds[2]}) == 4
    settings = GenerationSettings.make(task="co-generation", **options)
    conditionings = [request.conditioning for request in model.requests(settings, 0)]
    samples = draw(model.network, conditionings, sampler_settings(settings), 0)
    values = [log_likelihoods(model.network, conditionings, samples, seed, 8192) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_bfloat16_keeps_the_model_in_float32(model):
    (sample,) = model.generate("co-generation", lengths=[20], samples=1, steps=4, precision="bfloat16")
    assert set(sample.sequence) <= AMINO_ACIDS and np.isfinite(sample.backbone).all()
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}


def test_tokenizer_of_another_model_is_refused(model, folders):
    torch.manual_seed(7)
    other = StructureTokenizer(model.tokenizer.settings)  # of the same architecture, but other weights
    with pytest.raises(
        DPLM2Error, match=f"trained on the tokens of tokenizer {model.tokenizer.codes_fingerprint}.*one given is"
    ):
        DPLM2(model.network, other)


def test_trajectories_are_multi_model_files(model, tmp_path):
    (sample,) = model.generate("co-generation", lengths=[12], samples=1, steps=9, trajectory=3)
    assert [step for step, _, _ in sample.trajectory] == [3, 6, 9]
    for name in ("t.pdb", "t.cif", "t.bcif"):
        write_trajectory(tmp_path / name, sample)
    for models in (
        pdb.PDBFile.read(tmp_path / "t.pdb").get_structure(),
        pdbx.get_structure(pdbx.CIFFile.read(tmp_path / "t.cif")),
        pdbx.get_structure(pdbx.BinaryCIFFile.read(tmp_path / "t.bcif")),
    ):
        assert models.stack_depth() == 3
        np.testing.assert_allclose(models.coord[-1].reshape(-1, 4, 3), sample.backbone, atol=2e-3)


def test_samples_survive_a_round_trip(model, helix, tmp_path):
    samples = model.generate("scaffolding", problems=[helix], samples=2, steps=3)
    write_rows(tmp_path / "samples.parquet", [sample.row("tiny") for sample in samples])
    for row, sample in zip(read_samples(tmp_path).to_pylist(), samples, strict=True):
        assert (row["model"], row["problem"], row["sequence"]) == ("tiny", "helix", sample.sequence)
        assert row["structure_tokens"] == sample.structure_tokens.tolist() and row["tokenizer_plddt"] is None
        np.testing.assert_array_equal(np.float32(row["backbone"]).reshape(-1, 4, 3), sample.backbone)
        assert json.loads(row["settings"])["sampled_contig"] == sample.motif.contig
        assert row["motif_positions"] == sample.motif.positions.tolist()
        motif = np.float32(row["motif_backbone"]).reshape(-1, 4, 3)
        np.testing.assert_array_equal(motif, sample.motif.backbone)
        assert motif.shape[0] == len(row["motif_positions"]) < row["length"] == sample.length == len(row["sequence"])
        assert (row["sample_id"], row["task"], row["seed"]) == (sample.sample_id, "scaffolding", sample.seed)
        assert row["steps"] == sample.steps == 3 and row["log_likelihood"] is None
    with pytest.raises(DPLM2Error, match="contains no samples"):
        read_samples(Path("nowhere.parquet"))


def test_given_positions_of_each_track_survive_a_round_trip(model, ubiquitin, tmp_path):
    samples = model.generate("infilling", chains=[ubiquitin], mask_sequence="1-9", mask_structure="30", steps=1)
    samples += model.generate("sequence", lengths=[3], samples=1, steps=1)
    write_rows(tmp_path / "samples.parquet", [sample.row("tiny") for sample in samples])
    infilled, alone = read_samples(tmp_path).to_pylist()
    assert infilled["given_sequence"] == [n >= 9 for n in range(76)]
    assert infilled["given_structure"] == [n != 29 for n in range(76)]
    assert alone["given_sequence"] == [False] * 3 and alone["given_structure"] is None
