"""Conversion of the decoder's parameters from and to the authors' names.

Our decoder joins projections of one input into one matrix, and has only the used part of other tensors: one torsion
(psi) of seven, the confidence of one atom (C-alpha) of 37, and recycling embeddings for a single pass.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dplm2.core.errors import DPLM2Error
from dplm2.core.text import some
from dplm2.settings.tokenizer import DecoderSettings
from dplm2.tokenizer.structure_module import projection_sizes

ATOMS_37, ALPHA_OF_37 = 37, 1
ANGLES, PSI = 7, 2  # omega, phi, psi, chi1 to chi4
DISTANCE_BINS = 15  # of the recycled distogram

# Never used by the authors' decoder.
UNUSED_PREFIXES = ("decoder.esm.", "decoder.embedding.", "decoder.ptm_head.")
UNUSED = (
    "decoder.esm_s_combine",
    "decoder.af2_to_esm",
    "decoder.trunk.recycle_s_norm.weight",
    "decoder.trunk.recycle_z_norm.weight",
)
PARTLY_USED = (
    "decoder.trunk.recycle_z_norm.bias",
    "decoder.trunk.recycle_disto.weight",
    *(f"decoder.trunk.structure_module.angle_resnet.linear_out.{kind}" for kind in ("weight", "bias")),
    *(f"decoder.lddt_head.3.{kind}" for kind in ("weight", "bias")),
)
ROTARY_BUFFER = ".rot_emb.inv_freq"  # a constant


def official_names(settings: DecoderSettings) -> dict[str, tuple[str, ...]]:
    """Our parameter names (within ``decoder``), and the official tensors that are joined in them along dimension 0."""
    names: dict[str, tuple[str, ...]] = {}
    for ours, theirs in _modules(settings):
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = tuple(f"{name}.{kind}" for name in theirs)
    for block in range(settings.blocks):
        ours, theirs = f"trunk.blocks.{block}", f"decoder.trunk.blocks.{block}"
        without_bias = [
            ("residue_attention.query_key_value", "seq_attention.proj"),
            ("residue_attention.pair_bias", "pair_to_sequence.linear"),
        ]
        for attention, official in (("attend_starting", "tri_att_start"), ("attend_ending", "tri_att_end")):
            if settings.triangle_attention:
                without_bias.append((f"{attention}.bias", f"{official}.linear"))
                joined = tuple(f"{theirs}.{official}.mha.linear_{part}.weight" for part in "qkv")
                names[f"{ours}.{attention}.query_key_value.weight"] = joined
        for our_part, their_part in without_bias:
            names[f"{ours}.{our_part}.weight"] = (f"{theirs}.{their_part}.weight",)
    names["trunk.sequence_start"] = ("decoder.trunk.recycle_s_norm.bias",)
    names["trunk.relative_position.weight"] = ("decoder.trunk.pairwise_positional_embedding.embedding.weight",)
    names["structure_module.attention.point_weights"] = ("decoder.trunk.structure_module.ipa.head_weights",)
    return names


def _modules(settings: DecoderSettings) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Our modules with a weight and a bias, each with the official modules joined in it."""
    for part, place in (("norm", 0), ("expand", 1), ("contract", 3)):
        yield f"post_quant.perceptron.{part}", (f"post_quant.mlp.{place}",)
        yield f"input.{part}", (f"decoder.esm_s_mlp.{place}",)
    for layer in range(settings.post_quant_layers):
        ours, theirs = f"post_quant.layers.{layer}", f"post_quant.transformer.layers.{layer}"
        yield f"{ours}.attention_norm", (f"{theirs}.self_attn_layer_norm",)
        yield f"{ours}.query_key_value", tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
        yield f"{ours}.attention_output", (f"{theirs}.self_attn.out_proj",)
        yield f"{ours}.feedforward_norm", (f"{theirs}.final_layer_norm",)
        yield f"{ours}.expand", (f"{theirs}.fc1",)
        yield f"{ours}.contract", (f"{theirs}.fc2",)
    yield "post_quant.final_norm", ("post_quant.transformer.emb_layer_norm_after",)
    for block in range(settings.blocks):
        yield from _block_modules(f"trunk.blocks.{block}", f"decoder.trunk.blocks.{block}", settings.triangle_attention)
    yield "sequence_to_structure", ("decoder.trunk.trunk2sm_s",)
    yield "pair_to_structure", ("decoder.trunk.trunk2sm_z",)
    yield from _structure_modules("structure_module", "decoder.trunk.structure_module")
    yield "distogram_head", ("decoder.distogram_head",)
    yield "sequence_head", ("decoder.lm_head",)
    for place in range(3):
        yield f"confidence_head.{place}", (f"decoder.lddt_head.{place}",)


def _block_modules(ours: str, theirs: str, triangle_attention: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield f"{ours}.residue_attention.norm", (f"{theirs}.layernorm_1",)
    yield f"{ours}.residue_attention.gate", (f"{theirs}.seq_attention.g_proj",)
    yield f"{ours}.residue_attention.output", (f"{theirs}.seq_attention.o_proj",)
    yield f"{ours}.residue_attention.pair_norm", (f"{theirs}.pair_to_sequence.layernorm",)
    yield f"{ours}.residues_to_pairs.norm", (f"{theirs}.sequence_to_pair.layernorm",)
    yield f"{ours}.residues_to_pairs.project", (f"{theirs}.sequence_to_pair.proj",)
    yield f"{ours}.residues_to_pairs.output", (f"{theirs}.sequence_to_pair.o_proj",)
    for transition, official in (("residue_transition", "mlp_seq"), ("pair_transition", "mlp_pair")):
        for part, place in (("norm", 0), ("expand", 1), ("contract", 3)):
            yield f"{ours}.{transition}.{part}", (f"{theirs}.{official}.mlp.{place}",)
    for multiply, official in (("multiply_outgoing", "tri_mul_out"), ("multiply_incoming", "tri_mul_in")):
        yield f"{ours}.{multiply}.norm", (f"{theirs}.{official}.layer_norm_in",)
        yield (
            f"{ours}.{multiply}.project",
            tuple(f"{theirs}.{official}.linear_{part}" for part in ("a_p", "a_g", "b_p", "b_g")),
        )
        yield f"{ours}.{multiply}.gate", (f"{theirs}.{official}.linear_g",)
        yield f"{ours}.{multiply}.product_norm", (f"{theirs}.{official}.layer_norm_out",)
        yield f"{ours}.{multiply}.output", (f"{theirs}.{official}.linear_z",)
    if triangle_attention:
        for attention, official in (("attend_starting", "tri_att_start"), ("attend_ending", "tri_att_end")):
            yield f"{ours}.{attention}.norm", (f"{theirs}.{official}.layer_norm",)
            yield f"{ours}.{attention}.gate", (f"{theirs}.{official}.mha.linear_g",)
            yield f"{ours}.{attention}.output", (f"{theirs}.{official}.mha.linear_o",)


def _structure_modules(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield f"{ours}.sequence_norm", (f"{theirs}.layer_norm_s",)
    yield f"{ours}.pair_norm", (f"{theirs}.layer_norm_z",)
    yield f"{ours}.input", (f"{theirs}.linear_in",)
    projections = ("linear_q", "linear_kv", "linear_q_points", "linear_kv_points")
    yield f"{ours}.attention.project", tuple(f"{theirs}.ipa.{part}" for part in projections)
    yield f"{ours}.attention.pair_bias", (f"{theirs}.ipa.linear_b",)
    yield f"{ours}.attention.output", (f"{theirs}.ipa.linear_out",)
    yield f"{ours}.attention_norm", (f"{theirs}.layer_norm_ipa",)
    for place in range(3):
        yield f"{ours}.transition.{place}", (f"{theirs}.transition.layers.0.linear_{place + 1}",)
    yield f"{ours}.transition_norm", (f"{theirs}.transition.layer_norm",)
    yield f"{ours}.frame_update", (f"{theirs}.bb_update.linear",)
    yield f"{ours}.torsion.state", (f"{theirs}.angle_resnet.linear_in",)
    yield f"{ours}.torsion.first", (f"{theirs}.angle_resnet.linear_initial",)
    for block in range(2):
        for place in range(2):
            official = f"{theirs}.angle_resnet.layers.{block}.linear_{place + 1}"
            yield f"{ours}.torsion.blocks.{block}.{place}", (official,)


def from_official(tensors: Mapping[str, Tensor], settings: DecoderSettings) -> dict[str, Tensor]:
    """State dict of our decoder from the official tensors ``post_quant.*`` and ``decoder.*``.

    Raises
    ------
    DPLM2Error
        If a tensor is missing or unknown.
    """
    remaining = {name: tensor for name, tensor in tensors.items() if not is_unused(name)}

    def take(name: str) -> Tensor:
        if name not in remaining:
            raise DPLM2Error(f"{name}: not in the checkpoint; is it a structure tokenizer of this size?")
        return remaining.pop(name)

    state = {}
    for ours, theirs in official_names(settings).items():
        parts = [take(name) for name in theirs]
        state[ours] = parts[0] if len(parts) == 1 else torch.cat(parts)
    trunk = "decoder.trunk"
    state["trunk.pair_start"] = take(f"{trunk}.recycle_z_norm.bias") + take(f"{trunk}.recycle_disto.weight")[0]
    for kind in ("weight", "bias"):
        angles = take(f"{trunk}.structure_module.angle_resnet.linear_out.{kind}")
        state[f"structure_module.torsion.output.{kind}"] = angles.unflatten(0, (ANGLES, 2))[PSI].clone()
        confidence = take(f"decoder.lddt_head.3.{kind}")
        state[f"confidence_head.3.{kind}"] = confidence.unflatten(0, (ATOMS_37, -1))[ALPHA_OF_37].clone()
    if remaining:
        raise DPLM2Error(f"unknown weights: {some(sorted(remaining))}")
    return state


def is_unused(name: str) -> bool:
    """Whether the authors' decoder never uses this tensor."""
    return name in UNUSED or name.startswith(UNUSED_PREFIXES) or name.endswith(ROTARY_BUFFER)


def to_official(state: Mapping[str, Tensor], settings: DecoderSettings) -> dict[str, Tensor]:
    """The inverse of ``from_official``: tensors with which the authors' decoder has the same output.

    Values that ours lacks are set so that they have no effect; ``UNUSED`` tensors other than the norms are not written.
    """
    tensors = {}
    width, pair_width = settings.sequence_dim, settings.pair_dim
    for ours, theirs in official_names(settings).items():
        sizes = _sizes_of_joined(ours, settings) if len(theirs) > 1 else None
        parts = [state[ours]] if sizes is None else state[ours].split(sizes[0] if len(sizes) == 1 else sizes)
        tensors.update({name: part.clone() for name, part in zip(theirs, parts, strict=True)})
    trunk = "decoder.trunk"
    tensors[f"{trunk}.recycle_s_norm.weight"] = torch.ones(width)
    tensors[f"{trunk}.recycle_z_norm.weight"] = torch.ones(pair_width)
    tensors[f"{trunk}.recycle_z_norm.bias"] = state["trunk.pair_start"].clone()
    tensors[f"{trunk}.recycle_disto.weight"] = torch.zeros(DISTANCE_BINS, pair_width)
    for kind in ("weight", "bias"):
        psi = state[f"structure_module.torsion.output.{kind}"]
        angles = psi.new_zeros(ANGLES, *psi.shape)
        angles[PSI] = psi
        tensors[f"{trunk}.structure_module.angle_resnet.linear_out.{kind}"] = angles.flatten(0, 1)
        alpha = state[f"confidence_head.3.{kind}"]
        tensors[f"decoder.lddt_head.3.{kind}"] = alpha.repeat(ATOMS_37, *([1] * (alpha.ndim - 1)))
    return tensors


def _sizes_of_joined(name: str, settings: DecoderSettings) -> list[int]:
    if name.startswith("structure_module.attention.project"):
        return list(projection_sizes(settings.ipa_heads))
    return [settings.sequence_dim if name.startswith("post_quant") else settings.pair_dim]
