"""The console command: one subcommand per stage, each defined in its own folder's ``command`` module."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from dplm2 import __version__
from dplm2.core.output import copied_to
from dplm2.cpu.process import prepare_process
from dplm2.errors import ConfigError, DPLM2Error, Preempted

DESCRIPTION = """\
DPLM-2: protein structures in; trained models, designed proteins and benchmark tables out.

The stages, in the order of the data:
  structures   read and clean structure files into the Parquet store of chains
  tokenizer    train or evaluate the structure tokenizer
  tokens       encode chains as structure tokens, decode tokens as backbones
  model        warm up a language model from a sequence model; train it on sequence and structure
  generate     co-generate, fold, inverse fold, scaffold motifs
  evaluate     scTM, scRMSD, pLDDT, RMSD, recovery, motif success
  report       tables, plots and one HTML page

Beside them: import and export (other people's checkpoints), embed and probe (representations), status.
"""
EPILOG = """\
Run the whole workflow with `make demo`, or `snakemake --cores 2 --configfile my.yaml`.
Exit status: 0 all of it is there; 2 wrong use or configuration; 75 told to stop, progress
is saved, run it again; 1 anything else.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="dplm2", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", metavar="FILE", help="also write everything that the command prints to this file")
    parser.add_argument("--version", action="version", version=f"dplm2 {__version__}")
    subparsers = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for register in _registrations():
        register(subparsers)
    return parser


def _registrations() -> list:
    # The command modules import torch and biotite only when a command runs, so `--help` is quick.
    from dplm2.evaluation import command as evaluation
    from dplm2.evaluation import probe_command as probe
    from dplm2.generation import command as generation
    from dplm2.generation import embed_command as embed
    from dplm2.language import command as language
    from dplm2.report import command as report
    from dplm2.report import status
    from dplm2.structures import command as structures
    from dplm2.tokenizer import command as tokenizer

    parts = (structures, tokenizer, language, generation, evaluation, report, embed, probe, status)
    return [part.register for part in parts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    prepare_process()
    options = build_parser().parse_args(arguments)
    if options.log is None:
        return _run(options)
    try:
        with copied_to(options.log):
            return _run_to_the_end(options)
    except DPLM2Error as error:
        print(f"dplm2: {error}", file=sys.stderr)
        return 1


def _run_to_the_end(options: argparse.Namespace) -> int:
    """Run a parsed command; the traceback of an unforeseen error is printed here, so that the log has it."""
    try:
        return _run(options)
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return 1


def _run(options: argparse.Namespace) -> int:
    """Run a parsed command; an error becomes one line and an exit status."""
    try:
        return options.run(options) or 0
    except ConfigError as error:
        print(f"dplm2: {error}", file=sys.stderr)
        return 2
    except Preempted as error:
        print(f"dplm2: {error}", file=sys.stderr)
        return Preempted.EXIT_STATUS
    except DPLM2Error as error:
        print(f"dplm2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dplm2: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
