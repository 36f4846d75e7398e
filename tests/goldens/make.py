"""Cut the small goldens out of the full set of recordings.

    python -m tests.goldens.make FIXTURES

FIXTURES is the folder that ``tests/conftest.py`` finds as ``fixtures``. Values are copied, never computed or cast; text
is compressed. Other files (this script, the README) are not changed.
"""

import argparse
import csv
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.goldens.weights import SEEDS, drawn_weights

HERE = Path(__file__).parent
Tensors = dict[str, torch.Tensor]

WHOLE = [
    "lfq_unit.safetensors",
    "top_p_unit.safetensors",
    "structok_tiny/weights.safetensors",
    "lm_tiny/topk_masking.safetensors",
    "lm_tiny/loss_linear.safetensors",
    *[
        f"lm_tiny/generate_{name}.safetensors"
        for name in (
            "aa_only_argmax_det",
            "cogen_argmax_det",
            "cogen_argmax_stochastic1.0",
            "cogen_default_seed3",
            "folding_argmax_det",
            "folding_padded_argmax_det",
            "invfold_argmax_det",
            "motif_argmax_det",
        )
    ],
    "lm_bit_tiny/loss_linear.safetensors",
    "lm_bit_tiny/generate_cogen_argmax_det.safetensors",
    "lm_bit_tiny/generate_cogen_annealing1.1_0.1.safetensors",
    "foldseek/chains.txt",
    "foldseek/cluster_cluster.tsv",
]
COMPRESSED = [
    "vocab.txt",
    "keys_dplm2_150m.json",
    "keys_dplm2_150m_lora.json",
    "keys_dplm2_3b.json",
    "keys_dplm2_650m.json",
    "keys_dplm2_650m_lora.json",
    "keys_dplm2_bit_650m.json",
    "keys_struct_tokenizer.json",
    "structok_tiny/meta.json",
    "foldseek/search.tsv",
    *[f"{network}/{name}.json" for network in SEEDS for name in ("config", "keys", "meta")],
]

# Every special token and amino acid, then structure tokens evenly spread, the last and their mask among them.
LOGIT_COLUMNS = torch.tensor([*range(36), *range(36, 8227, 234), 8227, 8228])
BACKBONE_AND_BETA = 5  # of 14 or 37 atoms
ROWS_OF_PAIRS = 2  # of 8
PAIRS_OF_TM_SCORES = 21  # every so many; the kinds of models take turns of five


def forward(*extra: str) -> Callable[[Tensors], Tensors]:
    """Inputs, hidden states, embeddings, and a selection of each position's 8229 logits."""

    def cut(recorded: Tensors) -> Tensors:
        names = ("input_ids", "single_modality", "last_hidden_state", "embeddings_twice", *extra)
        kept = {name: recorded[name] for name in names if name in recorded}
        return kept | {"logit_columns": LOGIT_COLUMNS, "logits": recorded["logits"][..., LOGIT_COLUMNS]}

    return cut


def without(pattern: str) -> Callable[[Tensors], Tensors]:
    """All tensors except those whose names match."""
    return lambda recorded: {name: value for name, value in recorded.items() if not re.search(pattern, name)}


def only(pattern: str) -> Callable[[Tensors], Tensors]:
    """The tensors whose names match, with the first five atoms and the first two rows of pairs."""
    return lambda recorded: {
        name: shortened(name, value) for name, value in recorded.items() if re.fullmatch(pattern, name)
    }


def shortened(name: str, values: torch.Tensor) -> torch.Tensor:
    """Without values that no test reads: side chains, repeated columns, most rows of pairs."""
    if name.endswith("first8rows"):
        return values[:, :ROWS_OF_PAIRS]
    if name.endswith("positions") and values.shape[-2] in (14, 37):
        return values[..., :BACKBONE_AND_BETA, :]
    return values[..., :2] if name.endswith("plddt") else values


CODES = r"bb_positions|res_mask|seq_length|tokens|pre_quant|lfq_.*|detok\.(plddt|atom37_positions)"
ENCODER = r"enc\.component\..*|encoder_feats"
DECODER = (
    r"dec\.(post_quant|s_s|lm_logits|s_z_first8rows|distogram_logits_first8rows|states|frames|positions|"
    r"lddt_head_last_ca|plddt)"
)
LOSS = (
    r"batch\.(backbone_rigid_(tensor|mask)|residue_index|pseudo_beta|aatype|atom14_atom_exists|seq_length|"
    r"all_atom_positions)|frames|positions|lm_logits|viol\.between_residues\..*_loss_(mean|sum)|"
    r"viol\.within_residues\.per_atom_loss_sum"
)
CUT = {
    "lm_tiny/forward_aa_only": forward(),
    "lm_tiny/forward_all_masked": forward(),
    "lm_tiny/forward_padded": forward("embeddings_once"),
    "lm_tiny/forward_padded_no_token_dropout": forward(),
    "lm_tiny/forward_single_modality": forward(),
    "lm_tiny/forward_struct_only": forward(),
    "lm_tiny/loss_constant": without(r"^grad\..*dense\.weight|^grad\..*query\.weight"),
    "lm_tiny/loss_selfmixup_linear": without(r"^grad\..*dense\.weight|^grad\..*query\.weight"),
    "lm_tiny/filter_step0": without("row"),
    "lm_bit_tiny/forward_padded": without("embeddings_once"),
    "lm_bit_tiny/forward_unk_struct": without("embed"),
    "lm_bit_tiny/loss_selfmixup_linear": without(r"^grad\.|_logits$|_per_bit"),
    "structok_tiny/single_missing": only(f"{CODES}|{ENCODER}|{DECODER}"),
    "structok_tiny/batch_padded": only(f"{CODES}|encoder_feats|{DECODER}"),
    "structok_tiny/single_full": only(rf"{CODES}|all_atom_positions|dec\.block0_.*"),
    "structok_tiny/loss_single": only(LOSS),
    "structok_tiny/loss_batch": only(LOSS),
}


def main() -> None:
    """Write all goldens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixtures", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    write(arguments.fixtures, arguments.out)


def write(fixtures: Path, out: Path) -> None:
    """Write the goldens of ``fixtures`` into the folder ``out``."""
    for network in SEEDS:
        check_drawn_weights(fixtures / network, network)
    for name in WHOLE:
        write_bytes(out / name, (fixtures / name).read_bytes())
    for name in COMPRESSED:
        write_bytes(out / f"{name}.gz", gzip.compress((fixtures / name).read_bytes(), mtime=0))
    for name, cut in CUT.items():
        tensors = {key: value.contiguous() for key, value in cut(load_file(fixtures / f"{name}.safetensors")).items()}
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, out / f"{name}.safetensors")
    first_lines = (fixtures / "foldseek/search_default.tsv").read_bytes().splitlines(keepends=True)[:10]
    write_bytes(out / "foldseek/search_default.tsv", b"".join(first_lines))
    cut_tm_scores(fixtures / "tmscore", out / "tmscore")


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def check_drawn_weights(folder: Path, network: str) -> None:
    """Raise unless the drawn weights are the recorded ones bit for bit."""
    recorded, drawn = load_file(folder / "weights.safetensors"), drawn_weights(network, folder / "keys.json")
    if set(recorded) != set(drawn) or not all(torch.equal(value, drawn[name]) for name, value in recorded.items()):
        raise SystemExit(f"the weights drawn for {network} are not those of {folder}")


def cut_tm_scores(source: Path, out: Path) -> None:
    """Some pairs of C-alpha traces with their rows of scores."""
    with (source / "pairs.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    kept = rows[::PAIRS_OF_TM_SCORES]
    write_bytes(out / "pairs.csv", "".join(",".join(row) + "\n" for row in [header, *kept]).encode())
    traces = load_file(source / "pairs.safetensors")
    pairs = {f"{row[0]}.{kind}": traces[f"{row[0]}.{kind}"] for row in kept for kind in ("model", "native")}
    save_file(pairs, out / "pairs.safetensors")


if __name__ == "__main__":
    main()
