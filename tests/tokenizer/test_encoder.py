"""The encoder against recorded values of the authors' implementation, its optimised messages against the plain form."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer import features
from dplm2.tokenizer.encoder import Encoder
from dplm2.tokenizer.features import Edges
from dplm2.tokenizer.gvp import ChannelDropout, MessageLayer
from dplm2.tokenizer.model import pad_backbones
from tests.tokenizer.synthetic import rotation

COMPONENTS = {
    "tokens": "mask",
    "diherals": "dihedrals",
    "gvp_out": "geometry",
    "confidence": "confidence",
    "gvp_input_features": "inputs",
}


def batch_of(record):
    coords, observed = record["bb_positions"], record["res_mask"].bool()
    residues = torch.arange(coords.shape[1]) < record["seq_length"][:, None]
    return coords, observed, residues


def relative(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", ["single_missing", "single_full", "batch_padded"])
@torch.no_grad()
def test_features_equal_the_recorded_ones(recorded_tensors, released, name):
    record = recorded_tensors(f"structok_tiny/{name}")
    batch = batch_of(record)
    embedded = released.encoder.embed(*batch)
    encoded = released.encoder(*batch)
    # The authors' features of a padded chain depend on the padding: only the longest chain of a batch is comparable.
    for theirs, ours in COMPONENTS.items():
        assert relative(embedded[ours][0], record[f"enc.component.{theirs}"][0]) < 1e-4, ours
    assert relative(encoded[0], record["encoder_feats"][0]) < 1e-4
    observed = batch[1][0]
    values = released.values(*batch)[0]
    assert relative(values[observed], record["pre_quant"][0][observed]) < 1e-4


@torch.no_grad()
def test_only_the_authors_features_depend_on_padding(recorded_tensors, released, monkeypatch):
    record = recorded_tensors("structok_tiny/batch_padded")
    coords, observed, residues = batch_of(record)
    monkeypatch.setattr(features, "last_residues", lambda mask: torch.zeros_like(mask))
    encoded = released.encoder(coords, observed, residues)
    for row, length in enumerate(record["seq_length"].tolist()):
        assert relative(encoded[row, :length], record["encoder_feats"][row, :length]) < 1e-4


def plain_message(layer: MessageLayer, scalars_NS, vectors_N3V, edges: Edges):
    """The definition: messages from the concatenated source, edge and destination, then their mean."""
    sums = [torch.zeros_like(scalars_NS), torch.zeros_like(vectors_N3V)]
    count = torch.zeros(len(scalars_NS))
    for edge, (source, destination) in enumerate(zip(edges.source_E, edges.destination_E, strict=True)):
        scalars = torch.cat([scalars_NS[source], edges.scalars_EF[edge], scalars_NS[destination]])
        vectors = torch.cat([vectors_N3V[source], edges.vectors_E3V[edge], vectors_N3V[destination]], -1)
        for perceptron in layer.message:
            hidden = vectors @ perceptron.hidden.weight.T
            lengths = (hidden.square().sum(0) + 1e-8).sqrt()
            scalars = F.linear(torch.cat([scalars, lengths]), perceptron.scalar.weight, perceptron.scalar.bias)
            vectors = hidden @ perceptron.vector.weight.T
            if perceptron.gate is not None:
                scalars = scalars.relu()
                gate = F.linear(scalars, perceptron.gate.weight, perceptron.gate.bias)
                vectors = vectors * gate.sigmoid()
        sums[0][destination] += scalars
        sums[1][destination] += vectors
        count[destination] += 1
    count = count.clamp(min=1)
    return sums[0] / count[:, None], sums[1] / count[:, None, None]


def graph(nodes: int, count: int, edge: tuple[int, int], generator):
    # The last residue has no edges, like a residue without coordinates.
    source = torch.randint(nodes, (count,), generator=generator)
    destination = torch.randint(nodes - 1, (count,), generator=generator).sort().values
    scalars = torch.randn(count, edge[0], generator=generator)
    return Edges(source, destination, scalars, torch.randn(count, 3, edge[1], generator=generator))


@pytest.mark.parametrize("with_gradient", [False, True])
def test_messages_equal_the_plain_form(with_gradient, monkeypatch):
    monkeypatch.setattr("dplm2.tokenizer.gvp.BYTES_PER_CHUNK", {"cpu": 23 * 20 * 4})
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = MessageLayer((20, 6), (5, 2), 0.0).eval()
    scalars = torch.randn(11, 20, generator=generator)
    vectors = torch.randn(11, 3, 6, generator=generator)
    edges = graph(11, 70, (5, 2), generator)
    with torch.set_grad_enabled(with_gradient):
        fast = layer.mean_message(scalars, vectors, edges)
    plain = plain_message(layer, scalars, vectors, edges)
    for own, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
    if with_gradient:
        parameters = list(layer.message.parameters())
        weights = [torch.randn_like(value) for value in plain]
        gradients = [
            torch.autograd.grad(
                sum((value * weight).sum() for value, weight in zip(values, weights, strict=True)), parameters
            )
            for values in (fast, plain)
        ]
        for own, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_no_edge_leaves_a_residue_without_coordinates(chains):
    coords, observed, residues = pad_backbones(chains)
    edges = features.edges_of(features.centre(coords, observed), observed, residues, 30)
    flat = observed[residues]
    assert flat[edges.source_E].all() and flat[edges.destination_E].all()
    sent = torch.bincount(edges.source_E, minlength=len(flat))
    for row, length in enumerate(residues.sum(1).tolist()):
        start = int(residues.sum(1)[:row].sum())
        of_chain = sent[start : start + length]
        assert torch.equal(of_chain, observed[row, :length] * min(30, int(observed[row].sum())))


@torch.no_grad()
def test_features_of_a_chain_do_not_depend_on_its_batch(small_tokenizer, chains):
    together = small_tokenizer.encoder(*pad_backbones(chains))
    for row, backbone in enumerate(chains):
        alone = small_tokenizer.encoder(*pad_backbones([backbone]))[0]
        torch.testing.assert_close(together[row, : len(backbone)], alone, rtol=1e-4, atol=1e-4)
        assert (together[row, len(backbone) :] == 0).all()


@torch.no_grad()
def test_features_are_invariant_to_rotation_and_translation(small_tokenizer, chains):
    moved = [(backbone @ rotation(1) + np.array([40.0, -3.0, 8.0])).astype(np.float32) for backbone in chains]
    before, after = (small_tokenizer.encoder(*pad_backbones(group)) for group in (chains, moved))
    torch.testing.assert_close(before, after, rtol=1e-3, atol=2e-3)
    mirrored = [backbone * np.array([1.0, 1.0, -1.0], np.float32) for backbone in chains]
    assert (small_tokenizer.encoder(*pad_backbones(mirrored)) - before).abs().max() > 0.5


@torch.no_grad()
def test_half_precision_features_are_close_to_float32(small_tokenizer, chains):
    batch = pad_backbones(chains)
    exact, lower = (small_tokenizer.encoder(*batch, precision) for precision in (torch.float32, torch.bfloat16))
    error = (exact - lower).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < error < 0.02


def test_gradients_reach_every_parameter_that_training_uses(chains):
    torch.manual_seed(0)
    encoder = Encoder(
        TokenizerSettings.make(
            encoder={"width": 16, "layers": 1, "heads": 2, "gvp_layers": 1, "node_scalars": 8, "node_vectors": 4}
        ).encoder
    )
    encoder.train()
    encoder(*pad_backbones(chains)).square().sum().backward()
    silent = [name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.any()]
    # The softmax cancels the bias of keys; the last two edge scalars are always zero.
    assert all(name.endswith("key.bias") for name in silent), silent
    assert all(torch.isfinite(value.grad).all() for value in encoder.parameters() if value.grad is not None)


def test_positions_equal_fair_esms():
    from esm.modules import SinusoidalPositionalEmbedding

    from dplm2.tokenizer.encoder import position_embedding

    theirs = SinusoidalPositionalEmbedding(64, 1)(torch.full((1, 30), 32))[0]
    torch.testing.assert_close(position_embedding(30, 64, torch.device("cpu")), theirs, rtol=0, atol=1e-6)
    assert math.isclose(float(theirs[0, 0]), math.sin(2), rel_tol=1e-6)


def test_features_without_positions_do_not_depend_on_the_index(chains):
    """Missing residues before a chain shift its indices; only residues near its first one may differ."""
    given = chains[4]
    moved = np.concatenate([np.full((25, *given.shape[1:]), np.nan, given.dtype), given])
    differences = []
    for positions in (True, False):
        torch.manual_seed(0)
        sizes = {"width": 16, "layers": 0, "gvp_layers": 1, "node_scalars": 8, "node_vectors": 4, "neighbours": 4}
        encoder = Encoder(TokenizerSettings.make(encoder={**sizes, "positions": positions}).encoder).eval()
        with torch.no_grad():
            alone, after = (encoder(*pad_backbones([chain]))[0] for chain in (given, moved))
        differences.append(float((alone[3:] - after[28:]).abs().max()))
    with_positions, without = differences
    assert without < 0.01 < 0.1 < with_positions


def test_dropout_drops_whole_vectors():
    """Dropping single components of vectors would break equivariance."""
    torch.manual_seed(0)
    dropout, scalars, vectors = ChannelDropout(0.25).train(), torch.ones(300, 40), torch.ones(300, 3, 20)
    dropped_scalars, dropped = dropout(scalars, vectors)
    kept = dropped != 0
    assert torch.equal(kept.any(1), kept.all(1))
    assert torch.allclose(dropped[kept], torch.tensor(4 / 3))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.02)
    # The vectors of a residue are drawn independently, and so are scalars.
    assert 0.05 < kept[:, 0].float().var(1).mean() < 0.25
    assert (dropped_scalars != 0).float().mean().item() == pytest.approx(0.75, abs=0.02)
    unchanged = dropout.eval()(scalars, vectors)
    assert torch.equal(unchanged[0], scalars) and torch.equal(unchanged[1], vectors)
