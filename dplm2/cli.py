"""The console command: one subcommand per stage, each defined in its own folder's ``command`` module."""

import argparse
import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

from dplm2 import __version__
from dplm2.core.artifacts import OUT_OF_SPACE, UNWRITABLE, cannot_write, error_code
from dplm2.core.errors import ConfigError, DPLM2Error, Preempted
from dplm2.core.inputs import note
from dplm2.core.output import copied_to
from dplm2.cpu.process import prepare_process

TRACEBACK = "DPLM2_TRACEBACK"  # in the environment: print tracebacks of unexpected errors
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
is saved, run it again; 1 anything else. With DPLM2_TRACEBACK=1 in the environment, unexpected
errors print their traceback.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="dplm2", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", metavar="FILE", help="also write everything that the command prints to this file")
    parser.add_argument("--note", metavar="JSON", help="for the workflow: input files whose content to remember")
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
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(copied_to(options.log))
        except DPLM2Error as error:
            return _failed(f"--log: {error}")
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    """Run a parsed command; an error becomes one line and an exit status."""
    try:
        status = options.run(options) or 0
        if options.note and status == 0:
            note(options.note)
        return status
    except ConfigError as error:
        return _failed(error, 2)
    except Preempted as error:
        return _failed(error, Preempted.EXIT_STATUS)
    except DPLM2Error as error:
        return _failed(error)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failed(_unexpected(error))


def _failed(reason: object, status: int = 1) -> int:
    print(f"dplm2: {reason}", file=sys.stderr)
    return status


def _unexpected(error: Exception) -> str:
    """One line on an error that no part of the package foresaw; the traceback goes where a developer finds it."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    code = error_code(error)
    if isinstance(error, OSError) and error.filename and code in UNWRITABLE:
        return cannot_write(os.fsdecode(error.filename), code)
    if code in OUT_OF_SPACE:
        return f"no space left (or a quota is reached) in a folder that this command writes; make room ({error})"
    if isinstance(error, OSError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "memory ran out; work on fewer or shorter chains at once, or on a larger machine"
    name = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return f"unexpected error, please report it: {name} ({_kept_traceback(error)})"


def _kept_traceback(error: Exception) -> str:
    """Where the traceback was written."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="dplm2-traceback-", suffix=".txt", delete=False, encoding="utf-8"
        ) as stream:
            traceback.print_exception(error, file=stream)
        return f"traceback: {stream.name}"
    except OSError:
        return f"set {TRACEBACK}=1 to see the traceback"


if __name__ == "__main__":
    sys.exit(main())
