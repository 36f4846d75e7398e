"""Training of the tokenizer on synthetic helices and strands: windows, terms, and a decreasing loss."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from dplm2.core.errors import ConfigError
from dplm2.geometry.lddt import lddt_per_residue
from dplm2.geometry.superposition import rmsd
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.structures import store
from dplm2.tokenizer import feature_cache, losses, training
from dplm2.tokenizer.model import StructureTokenizer, pad_backbones
from dplm2.tokenizer.training import ChainWindows, TokenizerTask, initial_tokenizer, train_tokenizer
from tests.tokenizer.test_losses import chain_of_torsions

SIZES = {
    "encoder": {
        "width": 32,
        "layers": 1,
        "heads": 2,
        "feedforward_width": 32,
        "gvp_layers": 1,
        "node_scalars": 16,
        "node_vectors": 4,
        "edge_scalars": 8,
        "neighbours": 8,
        "dropout": 0.0,
    },
    "quantizer": {"bits": 6, "bound": "normalize", "commitment_weight": 0.0, "entropy_temperature": 1.0},
    "decoder": {
        "sequence_dim": 32,
        "pair_dim": 8,
        "blocks": 1,
        "sequence_head_width": 16,
        "pairwise_head_width": 8,
        "structure_blocks": 2,
        "ipa_heads": 2,
        "post_quant_layers": 1,
        "post_quant_heads": 2,
        "confidence_hidden": 8,
        "distogram_bins": 16,
        "dropout": 0.0,
        "start": "chain",
    },
    "loss": {"crop": 20, "local_fape": 1.0, "distance": 1.0, "length_scaling": False, "violation": 0.1},
    "training": {"steps": 3, "token_budget": 60, "log_every": 1, "learning_rate": 2e-3, "save_every": 100},
}


def settings_of(**changes):
    sections = {name: {**values, **changes.get(name, {})} for name, values in SIZES.items()}
    if sections["decoder"]["blocks"] == 0:
        for key in ("sequence_head_width", "pairwise_head_width"):
            del sections["decoder"][key]
    return TokenizerSettings.make(datasets=["any"], **sections)


def table_of(lengths=(18, 25, 30, 41), split="train"):
    """Chains whose torsion angles alternate between helix and strand, with a missing residue in the second."""
    rows = []
    for number, length in enumerate(lengths):
        generator = np.random.default_rng(number)
        helix = np.repeat(generator.random(length // 6 + 1) < 0.5, 6)[:length]
        torsions = np.where(helix[:, None], [-57.0, -47.0], [-120.0, 130.0]) + generator.normal(0, 8, (length, 2))
        backbone = chain_of_torsions(torsions)
        if number == 1:
            backbone[4] = np.nan
        rows.append(
            {
                "chain_id": f"chain{number}",
                "source_file": "made",
                "source_sha256": "0",
                "source_id": f"chain{number}",
                "author_chain": "A",
                "sequence": "".join("AL"[int(flag)] for flag in helix),
                "length": length,
                "observed": length,
                "residue_index": np.arange(1, length + 1, dtype=np.int32).tolist(),
                "backbone": backbone.reshape(-1).tolist(),
                "split": split,
            }
        )
    return pa.Table.from_pylist(rows, schema=store.CHAINS)


@pytest.fixture
def task():
    settings = settings_of()
    return TokenizerTask(initial_tokenizer(settings, seed=0), settings, table_of(), table_of(split="validation"))


def test_windows_are_parts_of_chains_drawn_from_the_generator(task):
    batch = task.collate([0, 1, 3], torch.Generator().manual_seed(5))
    again = task.collate([0, 1, 3], torch.Generator().manual_seed(5))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert batch["mask"].sum(1).tolist() == [18, 20, 20]
    assert task.costs == [18, 20, 20, 20]
    starts = {window_start(task, task.collate([3], torch.Generator().manual_seed(seed)), 3) for seed in range(60)}
    assert min(starts) == 0
    assert max(starts) == 41 - 20


def window_start(task, batch, chain):
    first = batch["coords"][0, 0].numpy()
    return int(np.abs(task.chains.backbones[chain][:, :3] - first).sum((1, 2)).argmin())


def test_missing_residues_are_zero_and_not_observed(task):
    batch = task.chains.batch([(1, 0, 25), (0, 0, 18)])
    assert batch["mask"].sum(1).tolist() == [25, 18]
    assert batch["observed"].sum(1).tolist() == [24, 18]
    assert batch["coords"][0, 4].abs().max() == 0
    assert not batch["bonded"][0, 24]
    assert batch["bonded"][0, :24].all()
    assert [losses.AMINO_ACIDS[number] for number in batch["residues"][0, :25]] == list(task.chains.sequences[1])


def test_every_trained_weight_gets_a_gradient(task):
    # layers initialized with zeros block the gradient of earlier ones in the first step
    with torch.no_grad():
        for parameter in task.module.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.02)
    loss, metrics = task.module(task.collate([0, 1, 2], torch.Generator().manual_seed(0)))
    loss.backward()
    without = [
        name
        for name, parameter in task.module.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or parameter.grad.abs().max() == 0)
    ]
    # O has no clashes initially, hence no gradient
    decoder = [name for name in without if ".decoder." in name and ".torsion." not in name]
    assert decoder == []
    expected = {"fape", "distogram", "sequence", "violation", "confidence", "local_fape", "distance", "chain"}
    assert expected <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())


def test_heads_without_a_loss_are_not_trained():
    settings = settings_of(loss={"confidence": 0.0, "distogram": 0.0})
    tokenizer = initial_tokenizer(settings, seed=0)
    assert not tokenizer.confidence_trained
    frozen = {name.split(".")[1] for name, value in tokenizer.named_parameters() if not value.requires_grad}
    assert frozen == {"confidence_head", "distogram_head"}


WITHOUT_PASSES = {
    "decoder": {"structure_blocks": 0, "blocks": 0},
    "loss": {"fape": 0.0, "local_fape": 0.0, "distance": 0.0, "violation": 0.0, "distogram": 0.0, "confidence": 0.0},
}


def test_without_passes_only_the_first_trace_is_trained():
    settings = settings_of(**WITHOUT_PASSES)
    task = TokenizerTask(initial_tokenizer(settings, seed=0), settings, table_of(), table_of())
    batch = task.collate([0, 2], torch.Generator().manual_seed(0))
    loss, _ = task.module(batch)
    loss.backward()
    trained = [(name, p) for name, p in task.module.named_parameters() if p.requires_grad]
    assert [name for name, parameter in trained if parameter.grad is None] == []
    codes = torch.randint(2, (1, 20, 6), generator=torch.Generator().manual_seed(1)).float() * 2 - 1
    passes = task.module.tokenizer.eval().decoder(codes, distogram=False).passes
    turns, shifts = passes.chain_turns[0], passes.chain_shifts[0]
    rotation, origin, origins = torch.eye(3), torch.zeros(3), [torch.zeros(3)]
    for turn, shift in zip(turns[:-1], shifts[:-1], strict=True):
        origin = origin + rotation @ shift
        rotation = rotation @ turn
        origins.append(origin)
    expected = torch.stack(origins)
    torch.testing.assert_close(passes.origins[-1, 0], expected - expected.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(passes.rotations[-1, 0, -1], rotation, rtol=0, atol=1e-4)


def test_passes_can_be_trained_after_the_first_trace(tmp_path):
    first = settings_of(**WITHOUT_PASSES)
    initial_tokenizer(first, seed=0).save_pretrained(tmp_path)
    changes = {**WITHOUT_PASSES, "decoder": {"blocks": 0}}
    tokenizer = initial_tokenizer(settings_of(**changes).replaced(initial=str(tmp_path)), seed=1)
    codes = torch.ones(1, 12, 6)
    traces = [
        each.eval().decoder(codes, distogram=False).passes.chain_shifts
        for each in (StructureTokenizer.from_pretrained(tmp_path), tokenizer)
    ]
    assert torch.equal(*traces)


def test_settings_without_effect_without_passes_are_refused():
    loss = {**WITHOUT_PASSES["loss"], "distance": 1.0}
    with pytest.raises(ConfigError, match="loss.distance: has no effect"):
        settings_of(**{**WITHOUT_PASSES, "loss": loss})
    with pytest.raises(ConfigError, match="decoder.structure_blocks: .* requires start: chain"):
        settings_of(decoder={"structure_blocks": 0, "start": "origin"})


def test_confidence_loss_does_not_affect_the_structure():
    tables = table_of(), table_of()
    gradients = []
    for weight in (0.01, 100.0):
        settings = settings_of(loss={"confidence": weight})
        task = TokenizerTask(initial_tokenizer(settings, seed=0), settings, *tables)
        loss, _ = task.module(task.collate([0, 2], torch.Generator().manual_seed(0)))
        loss.backward()
        gradients.append(task.module.tokenizer.decoder.structure_module.frame_update.weight.grad)
    assert torch.equal(*gradients)


def test_bits_are_enabled_one_by_one():
    settings = settings_of(quantizer={"gradual_steps": 12})
    task = TokenizerTask(initial_tokenizer(settings, seed=0), settings, table_of(), table_of())
    seen = []
    for step in (0, 2, 6, 12, 100):
        task.begin_step(step)
        seen.append(task.module.tokenizer.quantizer.bits_on)
    assert seen == [0, 1, 3, 6, 6]


def test_a_chain_is_learnt():
    settings = settings_of(quantizer={"gradual_steps": 10}, loss={"violation": 0.0, "distogram": 0.0})
    task = TokenizerTask(initial_tokenizer(settings, seed=1), settings, table_of((18, 20)), table_of((18, 20)))
    optimizer = torch.optim.Adam([p for p in task.module.parameters() if p.requires_grad], lr=3e-3)
    before = task.validate(task.module)
    generator = torch.Generator().manual_seed(0)
    for step in range(70):
        task.begin_step(step)
        optimizer.zero_grad()
        loss, _ = task.module(task.collate([0, 1], generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.module.parameters(), 5.0)
        optimizer.step()
    after = task.validate(task.module)
    assert after["rmsd"] < 0.5 * before["rmsd"]
    assert after["lddt"] > before["lddt"] + 0.2


def test_training_writes_tokenizer_card_and_record(tmp_path):
    store.write_table(tmp_path / "chains" / "part-00000.parquet", table_of())
    settings = settings_of()
    out = tmp_path / "out"
    train_tokenizer([tmp_path / "chains"], out, tmp_path / "state", settings, seed=3, device="cpu")
    assert {path.name for path in out.iterdir()} >= {"model.safetensors", "config.json", "metrics.csv", "run.json"}
    tokenizer = StructureTokenizer.from_pretrained(out)
    start = initial_tokenizer(settings, seed=3).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in tokenizer.state_dict().items())
    backbone = np.asarray(table_of()["backbone"][0].as_py(), np.float32).reshape(-1, 4, 3)
    decoded = tokenizer.decode(tokenizer.encode(backbone))
    assert decoded.backbone.shape == (18, 4, 3)


def test_progress_is_kept_by_all_that_decides_the_training(tmp_path, monkeypatch):
    class Begun(Exception):
        pass

    def fit(*_, fingerprint, **__):
        found.append(fingerprint)
        raise Begun

    def begin(settings, seed=3, lengths=(18, 25)):
        store.write_table(tmp_path / "chains" / "part-00000.parquet", table_of(lengths))
        with pytest.raises(Begun):
            train_tokenizer([tmp_path / "chains"], tmp_path, tmp_path / "s", settings, seed=seed, device="cpu")

    found: list[str] = []
    monkeypatch.setattr(training, "fit", fit)
    own = settings_of()
    begin(own)
    begin(own.replaced(training=own.training.replaced(log_every=2)))  # decides nothing
    assert len(set(found)) == 1
    begin(own, seed=4)
    begin(own, lengths=(18, 26))
    for change in ({"decoder": {"ipa_heads": 1}}, {"loss": {"violation": 0.2}}, {"training": {"learning_rate": 1e-3}}):
        begin(settings_of(**change))
    initial_tokenizer(own, seed=0).save_pretrained(tmp_path / "initial")
    begin(own.replaced(initial=str(tmp_path / "initial")))
    assert len(set(found)) == 7


@pytest.mark.parametrize("least", [-1e9, 0.999])
def test_only_calibrated_confidence_is_reported(tmp_path, monkeypatch, capsys, least):
    monkeypatch.setattr(training, "CALIBRATED", least)
    store.write_table(tmp_path / "chains" / "part-00000.parquet", table_of())
    train_tokenizer([tmp_path / "chains"], tmp_path / "out", tmp_path / "state", settings_of(), seed=3, device="cpu")
    tokenizer = StructureTokenizer.from_pretrained(tmp_path / "out")
    decoded = tokenizer.decode(np.zeros(30, int))
    if least < 0:
        assert 0 <= decoded.plddt.min() <= decoded.plddt.max() <= 100
    else:
        assert decoded.plddt is None
        assert "the confidence head is not calibrated" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out/run.json").read_text())["figures"]
    assert figures["plddt_explained_variance"] < 1


@pytest.mark.parametrize(("explained", "reported"), [(0.2, False), (0.25, True)])
def test_confidence_must_explain_a_quarter_of_the_variance(tmp_path, monkeypatch, explained, reported):
    monkeypatch.setattr(training, "explained_variance", lambda tokenizer, chains: explained)
    store.write_table(tmp_path / "chains" / "part-00000.parquet", table_of())
    train_tokenizer([tmp_path / "chains"], tmp_path / "out", tmp_path / "state", settings_of(), seed=3, device="cpu")
    assert StructureTokenizer.from_pretrained(tmp_path / "out").confidence_trained == reported


def test_explained_variance_is_that_of_a_regression(monkeypatch):
    """1 where pLDDT is lDDT, 0 where it is the mean of all, below where it is another constant."""
    tokenizer = initial_tokenizer(settings_of(), seed=0)
    chains = ChainWindows(table_of())
    true = torch.cat(
        [
            100
            * lddt_per_residue(output.positions[:, :, 1], batch["coords"][:, :, 1], batch["observed"])[
                batch["observed"]
            ]
            for batch, _, output in training.reconstructions(tokenizer.eval(), chains)
        ]
    )
    values = iter(())
    monkeypatch.setattr(training.DecoderOutput, "plddt", property(lambda output: next(values)))
    shape = next(iter(training.reconstructions(tokenizer, chains)))[0]["observed"]
    assert shape.shape[0] == len(chains.lengths)  # one batch
    for constant, expected in ((true.mean(), 0.0), (true.mean() + true.std(correction=0), -1.0)):
        values = iter([torch.full(shape.shape, constant.item())])
        assert training.explained_variance(tokenizer, chains) == pytest.approx(expected, abs=1e-4)
    exact = torch.zeros(shape.shape)
    exact[shape] = true
    values = iter([exact])
    assert training.explained_variance(tokenizer, chains) == pytest.approx(1)


def test_training_the_decoder_alone_keeps_all_tokens(tmp_path):
    """Models trained on the tokens remain valid: the codes have the same fingerprint."""
    store.write_table(tmp_path / "chains" / "part-00000.parquet", table_of())
    first = initial_tokenizer(settings_of(), seed=0)
    first.save_pretrained(tmp_path / "first")
    frozen = settings_of(encoder={"frozen": True}).replaced(initial=str(tmp_path / "first"))
    frozen = frozen.replaced(quantizer=frozen.quantizer.replaced(frozen=True))
    train_tokenizer([tmp_path / "chains"], tmp_path / "second", tmp_path / "state", frozen, seed=0, device="cpu")
    second = StructureTokenizer.from_pretrained(tmp_path / "second")
    assert second.codes_fingerprint == first.codes_fingerprint and second.fingerprint != first.fingerprint
    changed = {
        name.split(".")[0]
        for name, value in second.state_dict().items()
        if not torch.equal(value, first.state_dict()[name])
    }
    assert changed == {"decoder"}
    backbones = [np.asarray(row, np.float32).reshape(-1, 4, 3) for row in table_of()["backbone"].to_pylist()]
    for one, other in zip(first.encode(backbones), second.encode(backbones), strict=True):
        np.testing.assert_array_equal(one, other)


def test_frozen_quantizer_requires_initial_weights_and_frozen_encoder():
    with pytest.raises(ConfigError, match="quantizer.frozen: .* give `initial`"):
        settings_of(encoder={"frozen": True}, quantizer={"frozen": True})
    with pytest.raises(ConfigError, match="quantizer.frozen: .* unless encoder.frozen is true"):
        TokenizerSettings.make(
            datasets=["any"], initial="x", **{**SIZES, "quantizer": {**SIZES["quantizer"], "frozen": True}}
        )


FROZEN = {"encoder": {"frozen": True}, "loss": {"crop": None, "length_scaling": False}}


def test_cached_features_give_the_same_training_without_crops(tmp_path):
    settings, losses_of = settings_of(**FROZEN), []
    for folder in (None, tmp_path):
        tokenizer = initial_tokenizer(settings, seed=0)
        task = TokenizerTask(tokenizer, settings, table_of(), table_of(), folder)
        task.module.train()
        optimizer = torch.optim.SGD([p for p in task.module.parameters() if p.requires_grad], lr=1e-5)
        seen = []
        for step in range(3):
            task.begin_step(step)
            optimizer.zero_grad()
            loss, _ = task.module(task.collate([0, 1, 3], torch.Generator().manual_seed(step)))
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        losses_of.append(seen)
    assert len(set(losses_of[0])) == 3
    np.testing.assert_allclose(losses_of[1], losses_of[0], rtol=1e-5)


def test_cached_features_of_windows_are_those_of_the_chain(tmp_path):
    settings = settings_of(encoder={"frozen": True})
    task = TokenizerTask(initial_tokenizer(settings, seed=0), settings, table_of(), table_of(), tmp_path)
    encoder = task.module.tokenizer.encoder
    with torch.no_grad():
        whole = encoder(*pad_backbones([task.chains.backbones[3]]))[0]
        alone = encoder(*pad_backbones([task.chains.backbones[3][11:31]]))[0]
    window = task.features.batch([(0, 2, 9), (3, 11, 31)])
    torch.testing.assert_close(window[1], whole[11:31], rtol=1e-4, atol=1e-4)
    assert (window[0, 7:] == 0).all()
    assert (window[1] - alone).abs().max() > 0.05  # a separately encoded crop has other features


def test_interrupted_computation_of_features_resumes(tmp_path, monkeypatch):
    settings = settings_of(encoder={"frozen": True})
    encoder = initial_tokenizer(settings, seed=0).eval().encoder
    backbones, lines = ChainWindows(table_of()).backbones, []
    monkeypatch.setattr(feature_cache, "RESIDUES_PER_BATCH", 30)
    monkeypatch.setattr(feature_cache, "SECONDS_BETWEEN_SAVES", -1.0)
    expected = feature_cache.cached_features(encoder, backbones, tmp_path / "whole", lines.append).features_ND
    assert any("min left" in line for line in lines)
    calls = []

    def failing(*batch):
        calls.append(batch[0].shape[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return type(encoder).forward(encoder, *batch)

    monkeypatch.setattr(encoder, "forward", failing)
    with pytest.raises(KeyboardInterrupt):
        feature_cache.cached_features(encoder, backbones, tmp_path / "cut", lines.append)
    again = feature_cache.cached_features(encoder, backbones, tmp_path / "cut", lines.append)
    assert calls == [41, 30, 25, 25, 18]
    assert np.array_equal(again.features_ND, expected)
    feature_cache.cached_features(encoder, backbones, tmp_path / "cut", lines.append)
    assert len(calls) == 5  # all stored
    with torch.no_grad():
        encoder.norm.bias += 1.0
    feature_cache.cached_features(encoder, backbones, tmp_path / "cut", lines.append)
    assert len(calls) == 9  # another encoder


def test_training_with_cached_features_leaves_them_in_the_state(tmp_path):
    store.write_table(tmp_path / "chains" / "part-00000.parquet", table_of())
    settings = settings_of(encoder={"frozen": True, "cached_features": True})
    state = tmp_path / "state"
    train_tokenizer([tmp_path / "chains"], tmp_path / "out", state, settings, seed=3, device="cpu")
    assert len(list(state.glob("encoder_features/*/features.npy"))) == 1
    with pytest.raises(ConfigError, match="encoder.cached_features: has no effect unless frozen"):
        settings_of(encoder={"cached_features": True})


def test_rmsd_and_lddt_of_moved_and_changed_chains():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(1, 40, 3, generator=generator).cumsum(1) * 2
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    turn = turn * torch.linalg.det(turn)
    mask = torch.ones(1, 40, dtype=torch.bool)
    moved = true @ turn.T + 7
    assert rmsd(moved, true, mask).item() < 1e-3
    assert torch.allclose(lddt_per_residue(moved, true, mask), torch.ones(1, 40))
    assert rmsd(moved * torch.tensor([1.0, 1.0, -1.0]), true, mask).item() > 1
    noise = torch.randn(1, 40, 3, generator=generator) * 3
    noisy = rmsd(moved + noise, true, mask).item()
    assert noisy == pytest.approx(biotite_rmsd((moved + noise)[0].numpy(), true[0].numpy()), rel=1e-4)


def biotite_rmsd(mobile, fixed):
    structure = pytest.importorskip("biotite.structure")
    fitted, _ = structure.superimpose(fixed, mobile)
    return structure.rmsd(fixed, fitted)


def test_chain_windows_have_the_tables_content():
    chains = ChainWindows(table_of())
    assert chains.lengths == [18, 25, 30, 41]
    assert [len(backbone) for backbone in chains.backbones] == chains.lengths
