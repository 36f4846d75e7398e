"""The decoder against recorded values of the authors' implementation and against transformers' folding trunk."""

import json

import pytest
import torch

from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer import decoder_names, transition, trunk
from dplm2.tokenizer.decoder import Decoder
from dplm2.tokenizer.post_quant import PostQuantization
from dplm2.tokenizer.structure_module import MEAN_SHIFT, MEAN_TURN, ChainStart, InvariantPointAttention

CASES = ("single_missing", "batch_padded", "single_full")


def tiny_settings():
    """The sizes of the recorded model (structok_tiny/meta.json)."""
    sizes = {
        "sequence_dim": 32,
        "pair_dim": 16,
        "blocks": 2,
        "sequence_head_width": 8,
        "pairwise_head_width": 8,
        "structure_blocks": 2,
        "ipa_heads": 4,
        "post_quant_layers": 4,
        "post_quant_heads": 8,
        "confidence_hidden": 16,
    }
    return TokenizerSettings.make(datasets=["any"], decoder=sizes).decoder


@pytest.fixture(scope="module")
def official(recorded_tensors):
    return recorded_tensors("structok_tiny/weights")


@pytest.fixture(scope="module")
def decoder(official):
    ours = {name: tensor for name, tensor in official.items() if name.startswith(("post_quant.", "decoder."))}
    module = Decoder(tiny_settings(), TokenizerSettings.make().quantizer).eval()
    module.load_state_dict(decoder_names.from_official(ours, tiny_settings()))
    return module


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_every_part_equals_the_recorded_one(decoder, recorded_tensors, case, gradients):
    theirs = recorded_tensors(f"structok_tiny/{case}")
    mask = theirs["res_mask"].bool()
    with torch.set_grad_enabled(gradients):
        post_quant = decoder.post_quant(theirs["lfq_quantized"], mask)
        out = decoder(theirs["lfq_quantized"], mask)
    close(post_quant, theirs["dec.post_quant"], mask, 1e-5)
    close(out.sequence_state, theirs["dec.s_s"], mask, 1e-4)
    close(out.sequence_logits, theirs["dec.lm_logits"], mask, 1e-4)
    first = theirs["dec.s_z_first8rows"].shape[1]
    rows = mask[:, :first, None] & mask[:, None, :]
    close(out.pair_state[:, :first], theirs["dec.s_z_first8rows"], rows, 1e-4)
    close(out.distogram_logits[:, :first], theirs["dec.distogram_logits_first8rows"], rows, 1e-4)
    every_pass = mask.expand(2, -1, -1)
    close(out.passes.states, theirs["dec.states"], every_pass, 1e-4)
    frames = torch.cat((out.passes.quaternions, out.passes.origins), -1)
    close(frames, theirs["dec.frames"], every_pass, 1e-3)
    close(out.passes.positions, theirs["dec.positions"][..., :5, :], every_pass, 1e-3)
    close(out.confidence_logits, theirs["dec.lddt_head_last_ca"], mask, 1e-3)
    close(out.plddt, theirs["dec.plddt"][..., 1], mask, 1e-3)


@pytest.mark.parametrize("case", CASES)
def test_detokenizing_equals_the_recorded_one(decoder, recorded_tensors, case):
    theirs = recorded_tensors(f"structok_tiny/{case}")
    tokens = theirs["tokens"].reshape(theirs["res_mask"].shape).long()
    bits = (tokens.unsqueeze(-1) >> torch.arange(12, -1, -1)) & 1
    with torch.no_grad():
        out = decoder(bits.float() * 2 - 1, None, distogram=False)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    close(out.plddt, theirs["detok.plddt"][..., 1], everywhere, 1e-3)
    in_their_order = out.positions[..., [0, 1, 2, 4, 3], :]
    close(in_their_order, theirs["detok.atom37_positions"][..., :5, :], everywhere, 1e-3)


def close(ours, theirs, mask, tolerance):
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs()[mask]
    assert difference.max() < tolerance, f"largest difference {difference.max():.2e}"


def test_first_trunk_block_equals_the_recorded_one(decoder, recorded_tensors):
    theirs = recorded_tensors("structok_tiny/single_full")
    with torch.no_grad():
        sequence = decoder.input(decoder.post_quant(theirs["lfq_quantized"], None)) + decoder.trunk.sequence_start
        sequence, pairs = decoder.trunk.blocks[0](sequence, decoder.trunk.first_pairs((1, 60), None), None)
    assert torch.allclose(sequence, theirs["dec.block0_s"], atol=1e-4)
    first_rows = theirs["dec.block0_z_first8rows"]
    assert torch.allclose(pairs[:, : first_rows.shape[1]], first_rows, atol=1e-4)


def transformers_trunk(official, settings):
    """The plain form: transformers' trunk with the same weights."""
    modeling = pytest.importorskip("transformers.models.esm.modeling_esmfold")
    from transformers.models.esm.configuration_esm import TrunkConfig

    config = TrunkConfig(
        num_blocks=settings.blocks,
        sequence_state_dim=settings.sequence_dim,
        pairwise_state_dim=settings.pair_dim,
        sequence_head_width=settings.sequence_head_width,
        pairwise_head_width=settings.pairwise_head_width,
        max_recycles=1,
        structure_module={
            "sequence_dim": settings.sequence_dim,
            "pairwise_dim": settings.pair_dim,
            "num_blocks": settings.structure_blocks,
            "num_heads_ipa": settings.ipa_heads,
            "resnet_dim": settings.sequence_dim,
        },
    )
    trunk = modeling.EsmFoldingTrunk(config).eval()
    prefix = "decoder.trunk."
    trunk.load_state_dict({k.removeprefix(prefix): v for k, v in official.items() if k.startswith(prefix)})
    return trunk


@pytest.mark.parametrize("length", [1, 2, 33])
def test_positions_equal_those_of_the_plain_trunk(decoder, official, length):
    settings = tiny_settings()
    trunk = transformers_trunk(official, settings)
    sequence = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(length))
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, 3:] = False
    pairs = sequence.new_zeros(2, length, length, 16)
    index = torch.arange(length).expand(2, -1)
    with torch.no_grad():
        plain = trunk(sequence, pairs, torch.zeros_like(index), index, mask.long(), no_recycles=0)
        ours_sequence, ours_pairs = decoder.trunk(sequence, mask)
        ours = decoder.structure_module(
            decoder.sequence_to_structure(ours_sequence), decoder.pair_to_structure(ours_pairs), mask
        )
    assert (ours.positions - plain["positions"][..., :5, :]).abs()[mask.expand(2, -1, -1)].max() < 1e-4
    assert (ours.states - plain["states"]).abs()[mask.expand(2, -1, -1)].max() < 1e-4


@pytest.mark.parametrize(("ours", "theirs"), [("attend_starting", "tri_att_start"), ("attend_ending", "tri_att_end")])
def test_gradients_of_triangle_attention_equal_the_plain_ones_in_masked_rows_too(decoder, official, ours, theirs):
    """A masked row is the mean of its values, yet its logits have a gradient."""
    plain = getattr(transformers_trunk(official, tiny_settings()).blocks[0], theirs)
    generator = torch.Generator().manual_seed(1)
    pairs, upstream = torch.randn(2, 2, 11, 11, 16, generator=generator)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 4:6], mask[1, 7:] = False, False
    results = []
    for module, given in (
        (plain, (mask[:, :, None] * mask[:, None]).float()),
        (getattr(decoder.trunk.blocks[0], ours), mask),
    ):
        leaf = pairs.clone().requires_grad_()
        module.zero_grad()
        updated = module(leaf, mask=given) if module is plain else module(leaf, given) - leaf
        updated.backward(upstream)
        bias = module.linear if module is plain else module.bias
        results.append((updated.detach(), leaf.grad, bias.weight.grad.clone()))
    for own, other in zip(results[1], results[0], strict=True):
        assert (own - other).abs().max() < 2e-5 * other.abs().max()


def test_an_untrained_trace_takes_the_mean_step_everywhere():
    turns, shifts = ChainStart(8)(torch.randn(2, 5, 8))
    assert torch.allclose(turns, torch.tensor(MEAN_TURN).expand(2, 5, 4), atol=1e-3)
    assert torch.equal(shifts, torch.tensor(MEAN_SHIFT).expand(2, 5, 3))


def test_gates_of_untrained_triangle_updates_are_open():
    update = trunk.TriangleMultiplication(8, outgoing=True)
    for linear, gates in ((update.project, (1, 3)), (update.gate, (0,))):
        for part in gates:
            rows = slice(8 * part, 8 * part + 8)
            assert torch.all(linear.weight[rows] == 0) and torch.all(linear.bias[rows] == 1)


def test_points_of_attention_may_coincide_with_the_frames():
    """Their length is 0, where a square root has no gradient."""
    attention = InvariantPointAttention(8, 4, 2)
    for parameter in attention.parameters():
        torch.nn.init.zeros_(parameter)
    states, rotation = torch.randn(1, 3, 8, requires_grad=True), torch.eye(3).expand(1, 3, 3, 3)
    out = attention(states, torch.zeros(1, 3, 3, 4), torch.zeros(1, 2, 3, 3), rotation, torch.zeros(1, 3, 3))
    (gradient,) = torch.autograd.grad(out.sum(), states)
    assert out.isfinite().all() and gradient.isfinite().all()


def test_padding_does_not_change_the_output(decoder):
    generator = torch.Generator().manual_seed(0)
    lengths = (20, 31, 7)
    chains = [torch.randn(1, length, 13, generator=generator).sign() for length in lengths]
    codes = torch.zeros(3, 31, 13)
    mask = torch.arange(31) < torch.tensor(lengths)[:, None]
    for row, chain in enumerate(chains):
        codes[row, : chain.shape[1]] = chain[0]
    with torch.no_grad():
        together = decoder(codes, mask)
        for row, chain in enumerate(chains):
            alone = decoder(chain)
            assert torch.allclose(together.positions[row, : lengths[row]], alone.positions[0], atol=1e-3)
            assert torch.allclose(together.plddt[row, : lengths[row]], alone.plddt[0], atol=1e-3)


def test_bfloat16_trunk_is_close_to_float32(decoder):
    """The network does not change, and changes of its weights take effect."""
    codes = torch.randn(2, 30, 13, generator=torch.Generator().manual_seed(1)).sign()
    with torch.no_grad():
        exact, lower = (decoder(codes, precision=dtype).positions for dtype in (torch.float32, torch.bfloat16))
        assert 0 < (exact - lower).abs().max() < 0.02 * exact.abs().max()
        assert decoder.trunk.pair_start.dtype == torch.float32
        decoder.trunk.blocks[0].residue_transition.expand.weight.mul_(-1)
        changed = decoder(codes, precision=torch.bfloat16).positions
    assert (changed - lower).abs().max() > 0.05 * exact.abs().max()


def test_chunks_of_pairs_give_the_same_output(decoder, monkeypatch):
    codes = torch.randn(2, 41, 13, generator=torch.Generator().manual_seed(1)).sign()
    mask = torch.ones(2, 41, dtype=torch.bool)
    mask[0, 30:] = False
    with torch.no_grad():
        whole = decoder(codes, mask).positions
        monkeypatch.setitem(transition.CHUNK_ELEMENTS, "cpu", 2 * 41 * 16 * 7)
        monkeypatch.setitem(trunk.TRIANGLE_ROWS, "cpu", 9)
        pieces = decoder(codes, mask).positions
        monkeypatch.setitem(transition.CHUNK_ELEMENTS, "cpu", 1)  # a row at a time, at least
        assert transition.rows_per_chunk(torch.zeros(2, 41, 41, 16)) == 1
    assert (whole - pieces).abs()[mask].max() < 1e-3


def test_decoder_survives_export_and_import(decoder, official):
    settings = tiny_settings()
    exported = decoder_names.to_official(decoder.state_dict(), settings)
    for name, tensor in decoder_names.from_official(exported, settings).items():
        assert torch.equal(tensor, decoder.state_dict()[name]), name
    missing = set(official) - set(exported)
    held = {name for name in missing if name.startswith(("decoder.", "post_quant."))}
    assert all(decoder_names.is_unused(name) for name in held)
    for name, tensor in exported.items():
        assert tensor.shape == official[name].shape, name


def test_every_official_key_of_the_full_size_is_mapped(recorded):
    shapes = json.loads(recorded("keys_struct_tokenizer.json").read_text())
    settings = TokenizerSettings.make(datasets=["any"]).decoder
    tensors = {
        name: torch.zeros(shape)
        for name, (shape, _) in shapes.items()
        if name.startswith(("post_quant.", "decoder.")) and not name.startswith("decoder.esm.")
    }
    state = decoder_names.from_official(tensors, settings)
    Decoder(settings, TokenizerSettings.make().quantizer).load_state_dict(state)


def test_trunk_without_triangle_attention_lacks_its_weights():
    settings = tiny_settings().replaced(triangle_attention=False, pairwise_head_width=32)
    assert not [
        name for name in Decoder(settings, TokenizerSettings.make().quantizer).state_dict() if "attend_" in name
    ]


def test_bfloat16_changes_positions_little(decoder, recorded_tensors):
    theirs = recorded_tensors("structok_tiny/single_full")
    with torch.no_grad():
        exact = decoder(theirs["lfq_quantized"])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = decoder(theirs["lfq_quantized"])
    assert rounded.positions.dtype == torch.float32
    assert 0 < (rounded.positions - exact.positions).norm(dim=-1).median() < 1


@pytest.mark.parametrize("padded", [False, True])
def test_windowed_attention_does_not_depend_on_the_chain_length(padded):
    torch.manual_seed(0)
    settings = TokenizerSettings.make(quantizer={"bits": 6}).quantizer
    network = PostQuantization(settings, width=16, layers=2, heads=2, window=5)
    codes = torch.randint(2, (1, 60, 6)).float() * 2 - 1
    mask = torch.ones(1, 60, dtype=torch.bool) if padded else None
    with torch.no_grad():
        whole = network(codes, mask)
        part = network(codes[:, 20:45], None if mask is None else mask[:, 20:45])
        # Two layers attend over ten residues to both sides; rotary positions are relative.
        torch.testing.assert_close(part[:, 10:-10], whole[:, 30:35], rtol=1e-5, atol=1e-5)
        assert (part[:, 0] - whole[:, 20]).abs().max() > 1e-3
        wide = PostQuantization(settings, width=16, layers=2, heads=2, window=59)
        wide.load_state_dict(network.state_dict())
        everything = PostQuantization(settings, width=16, layers=2, heads=2)
        everything.load_state_dict(network.state_dict())
        torch.testing.assert_close(wide(codes, mask), everything(codes, mask))
