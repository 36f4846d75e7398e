"""Command line: ``dplm2 embed``."""

import argparse
from pathlib import Path

POOLS = ("mean", "first", "none")

TOKENS_FOLDER = "structure_tokens"  # of structure files, kept for a run after an interruption
EXAMPLES = """\
examples:
  dplm2 embed proteins.fasta --model results/models/demo --out embeddings
  dplm2 embed 1ubq.pdb structures/ --model M --out residues --pool none --numbers float16
  dplm2 embed results/tokens/T/D --model M --out embeddings --layers 6 -1 --tracks structure
FASTA files give a sequence; structure files, data sets and tokens give both tracks (see --tracks).
After an interruption, run it again: finished parts, and tokens of structures, are kept.
"""


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dplm2 embed``."""
    parser.description = "Write a model's representations of proteins as Parquet files, one row per protein."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT",
        help="FASTA files, data-set folders, Parquet files of chains, files or folders of tokens, structure files "
        "(complex.pdb:A selects chain A), archives, or folders of them at any depth",
    )  # fmt: skip
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or hub id")
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer (default: the model's)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for part-*.parquet, run.json")
    parser.add_argument(
        "--pool", choices=POOLS, default="mean",
        help="mean over the known residues, first: the token that begins a track, none: one vector per residue",
    )  # fmt: skip
    parser.add_argument(
        "--layers", nargs="+", type=int, default=[-1], metavar="N",
        help="after which layers: 1 is the first, 0 its input, -1 the last (default)",
    )  # fmt: skip
    parser.add_argument(
        "--tracks", choices=("both", "sequence", "structure"), default="both", help="tracks of the input"
    )
    parser.add_argument(
        "--numbers", choices=("float32", "float16"), default="float32", help="type of the stored numbers"
    )
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="in which the network computes"
    )
    parser.add_argument("--token-budget", type=_positive, default=8192, help="maximum number of tokens per batch")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    from dplm2.core.artifacts import RunRecord
    from dplm2.core.devices import pick_device
    from dplm2.core.locks import writing_into
    from dplm2.generation.model import DPLM2
    from dplm2.generation.proteins import contents_of, read_proteins
    from dplm2.representations.embedding import Embedding, embed_folder

    inputs = contents_of(options.inputs)
    model = DPLM2.from_pretrained(options.model, options.tokenizer, pick_device(options.device))
    bfloat16 = options.precision == "bfloat16"
    embedding = Embedding(options.pool, tuple(options.layers), options.numbers, options.token_budget, bfloat16)
    layers = embedding.resolved(model.network.depth)
    settings = {name: getattr(options, name) for name in ("pool", "tracks", "numbers", "precision")}
    inputs = {"model": model.fingerprint, **inputs}
    record = RunRecord("embed", {**settings, "layers": layers}, inputs, model.network.device.type)
    with writing_into(options.out, "embed"):
        record.supersede(options.out)
        targets = read_proteins(model, options.inputs, options.tracks, kept=options.out / TOKENS_FOLDER)
        parts = embed_folder(model, targets, embedding, options.out)
        width = model.network.model.config.hidden_size
        record.write(options.out, proteins=len(targets), parts=parts, width=width)
    print(f"{options.out}: {len(targets)} proteins, {width} values per vector")
