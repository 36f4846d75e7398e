"""Command line: ``dplm2 embed``."""

import argparse
from pathlib import Path

POOLS = ("mean", "none")

EXAMPLES = """\
examples:
  dplm2 embed proteins.fasta --model results/models/demo --out embeddings.parquet
  dplm2 embed 1ubq.pdb structures/ --model M --out embeddings.parquet --pool none
FASTA files give a sequence; structure files and data sets give both tracks (see --tracks).
"""


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dplm2 embed``."""
    parser.description = (
        "Write a model's representations of proteins (last layer) as a Parquet file, one row per protein."
    )
    parser.epilog = EXAMPLES
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT",
        help="FASTA files, data-set folders, Parquet files of chains, structure files (complex.pdb:A selects chain A), "
        "archives, or folders of them at any depth",
    )  # fmt: skip
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or hub id")
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer (default: the model's)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="Parquet file to write")
    parser.add_argument(
        "--pool", choices=POOLS, default="mean", help="mean over residues, or none: one vector per residue"
    )
    parser.add_argument(
        "--tracks", choices=("both", "sequence", "structure"), default="both", help="tracks of the input"
    )
    parser.add_argument("--token-budget", type=int, default=8192, help="maximum number of tokens per batch")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from dplm2.core import parquet
    from dplm2.core.devices import pick_device
    from dplm2.core.errors import DPLM2Error
    from dplm2.core.fasta import is_fasta
    from dplm2.generation.embedding import embed
    from dplm2.generation.inputs import read_targets
    from dplm2.generation.model import DPLM2
    from dplm2.generation.task import distinct

    model = DPLM2.from_pretrained(options.model, options.tokenizer, pick_device(options.device))
    targets = []
    for source in options.inputs:
        with_structure = options.tracks != "sequence" and not is_fasta(source)
        targets += read_targets([source], tokenize=model.tokenizer.encode if with_structure else None)
    if options.tracks == "structure":
        targets = [replace(target, sequence=None) for target in targets]
        if any(target.structure_tokens is None for target in targets):
            raise DPLM2Error("--tracks structure: a FASTA file has no structure")
    table = embed(model, distinct(targets), options.pool, options.token_budget)
    parquet.write_table(options.out, table)
    print(f"{options.out}: {table.num_rows} proteins, {table['width'][0].as_py()} values per vector")
