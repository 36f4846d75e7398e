"""Command line: ``dplm2 embed``."""

import argparse
from pathlib import Path

from dplm2.core.devices import DEVICES

POOLS = ("mean", "first", "none")

TOKENS_FOLDER = "structure_tokens"  # of structure files, kept for a run after an interruption
EXAMPLES = """\
examples:
  dplm2 embed proteins.fasta --model results/models/demo --out embeddings
  dplm2 embed 1ubq.pdb structures/ --model M --out residues --pool none --numbers float16
  dplm2 embed results/tokens/T/D --model M --out embeddings --layers 6 -1 --tracks structure
  dplm2 embed proteins.fasta --encoder biohub/ESMC-600M --out embeddings-esmc
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
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="model folder, hub id or small")
    source.add_argument(
        "--encoder", metavar="DIR",
        help="an encoder of sequences alone, to compare with: folder or hub id of ESM C (biohub/ESMC-600M) or ESM-2 "
        "(facebook/esm2_t33_650M_UR50D)",
    )  # fmt: skip
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
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device for networks (default: a GPU if any)")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    from dplm2.core.artifacts import RunRecord
    from dplm2.core.devices import pick_device
    from dplm2.core.locks import writing_into
    from dplm2.generation.proteins import contents_of
    from dplm2.representations.embedding import Embedding, embed_folder

    inputs, device = contents_of(options.inputs), pick_device(options.device)
    source, read = _encoder(options, device) if options.encoder else _model(options, device)
    bfloat16 = options.precision == "bfloat16"
    embedding = Embedding(options.pool, tuple(options.layers), options.numbers, options.token_budget, bfloat16)
    layers = embedding.resolved(source.depth)
    settings = {name: getattr(options, name) for name in ("pool", "tracks", "numbers", "precision")}
    record = RunRecord("embed", {**settings, "layers": layers}, {"model": source.fingerprint, **inputs}, device)
    with writing_into(options.out, "embed"):
        record.supersede(options.out)
        targets = read()
        parts = embed_folder(source, targets, embedding, options.out)
        record.write(options.out, proteins=len(targets), parts=parts, width=source.width)
    print(f"{options.out}: {len(targets)} proteins, {source.width} values per vector")


def _model(options: argparse.Namespace, device):  # noqa: ANN001, ANN202
    """A model of both tracks, and what reads its proteins."""
    from dplm2.generation.model import DPLM2
    from dplm2.generation.proteins import read_proteins
    from dplm2.representations.embedding import Embedder

    model = DPLM2.from_pretrained(options.model, options.tokenizer, device)
    kept = options.out / TOKENS_FOLDER
    return Embedder.of(model), lambda: read_proteins(model, options.inputs, options.tracks, kept=kept)


def _encoder(options: argparse.Namespace, device):  # noqa: ANN001, ANN202
    """An encoder of sequences alone, and what reads its proteins."""
    from dplm2.core.errors import ConfigError
    from dplm2.generation.inputs import read_targets
    from dplm2.generation.task import distinct
    from dplm2.representations.embedding import Embedder
    from dplm2.representations.encoders import SequenceEncoder

    if options.tracks == "structure" or options.tokenizer:
        raise ConfigError("--encoder: it reads sequences alone; omit --tracks structure and --tokenizer")
    encoder = SequenceEncoder(options.encoder, device)
    source = Embedder(encoder.fingerprint, encoder.depth, encoder.width, encoder.embed)
    return source, lambda: distinct(read_targets(options.inputs))
