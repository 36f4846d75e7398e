"""Command line: ``dplm2 rank``."""

import argparse
from pathlib import Path

from dplm2.settings.command_line import add_settings, choose

DESCRIPTION = """\
Rank designs by their metrics. Writes into --out:
  designs.csv     rank, score, whether the thresholds are passed, all metrics, sequence, structure file
  designs.fasta   the sequences in the same order
  best/           the first that pass: structures, predictions superimposed on them, best.fasta
"""
EPILOG = """\
examples:
  dplm2 rank --samples results/samples/demo/folding --evaluation results/evaluation/demo/folding --out ranked
  dplm2 rank --samples S --evaluation E --out ranked --set 'ranking.at_most={sc_rmsd: 2}' ranking.best=20
"""


def add_rank(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 rank``."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--samples", type=Path, required=True, metavar="DIR", help="folder that 'generate' wrote")
    parser.add_argument("--evaluation", type=Path, required=True, metavar="DIR", help="folder that 'evaluate' wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for designs.csv and best/")
    add_settings(parser, "evaluation", device=False)
    parser.set_defaults(run=run_rank)


def run_rank(options: argparse.Namespace) -> None:
    """Run ``dplm2 rank``."""
    from dplm2.core.locks import writing_into
    from dplm2.evaluation.designs import rank_designs, summary_of

    settings = choose(options, "evaluation").section.ranking
    with writing_into(options.out, "rank"):
        ranking = rank_designs(options.samples, options.evaluation, options.out, settings)
    print(summary_of(ranking, options.out, settings))
