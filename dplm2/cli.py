"""The console command: one subcommand per stage, each defined in its own folder's ``command`` module."""

import argparse
import atexit
import contextlib
import gc
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from dplm2 import __version__
from dplm2.core.artifacts import NO_SPACE, OUT_OF_SPACE, UNWRITABLE, cannot_write, error_code
from dplm2.core.devices import is_first_process
from dplm2.core.errors import ConfigError, DPLM2Error, Preempted
from dplm2.core.inputs import note
from dplm2.core.output import copied_to
from dplm2.cpu.process import prepare_process

TRACEBACK = "DPLM2_TRACEBACK"  # in the environment: print tracebacks of unexpected errors
DESCRIPTION = """\
DPLM-2: protein structures in; trained models, designed proteins and benchmark tables out.
The stages from structures to report are listed in the order of the data.
"""
EPILOG = """\
Run the whole workflow with `make demo`, or `snakemake --cores 2 --configfile my.yaml`.
Exit status: 0 success; 2 wrong use or configuration; 75 stopped by a signal with progress saved (run it
again to resume); 1 any other failure. With DPLM2_TRACEBACK=1 in the environment, unexpected errors print
their traceback.
"""


@dataclass(frozen=True)
class Command:
    """A command, or a group of them.

    Attributes
    ----------
    help
        One line.
    parts
        ``module:function`` of those that fill the command's parser, or add commands to the group.
    group
        What the commands of a group are called; empty for a single command.
    """

    help: str
    parts: tuple[str, ...]
    group: str = ""


COMMANDS = {
    "structures": Command(
        "read and clean structure files into the Parquet store of chains",
        ("dplm2.structures.command:add_commands",),
        "COMMAND",
    ),
    "tokenizer": Command(
        "train or evaluate the structure tokenizer",
        ("dplm2.tokenizer.command:add_tokenizer", "dplm2.evaluation.command:add_tokenizer"),
        "ACTION",
    ),
    "tokens": Command(
        "encode chains as structure tokens, decode tokens as backbones",
        ("dplm2.tokenizer.command:add_tokens",),
        "ACTION",
    ),
    "model": Command(
        "warm up a language model from a sequence model; train it", ("dplm2.language.command:add_model",), "ACTION"
    ),
    "generate": Command(
        "co-generate, fold, inverse fold, scaffold motifs", ("dplm2.generation.command:add_tasks",), "TASK"
    ),
    "design": Command(
        "from a task to ranked designs: generate, filter, fold, score, rank",
        ("dplm2.evaluation.design_command:add_design",),
    ),
    "evaluate": Command(
        "scTM, scRMSD, pLDDT, RMSD, recovery, motif success", ("dplm2.evaluation.command:add_evaluate",)
    ),
    "rank": Command(
        "rank evaluated designs: one table, FASTA, structures of the best", ("dplm2.evaluation.rank_command:add_rank",)
    ),
    "report": Command("tables, plots and one HTML page", ("dplm2.report.command:add_report",)),
    "import": Command(
        "convert checkpoints of the authors' programs",
        ("dplm2.tokenizer.command:add_import", "dplm2.language.command:add_import"),
        "ACTION",
    ),
    "export": Command(
        "write a model or tokenizer in the format of another program", ("dplm2.language.command:add_export",)
    ),
    "score": Command(
        "log-likelihoods of proteins, effects of mutations, ProteinGym",
        ("dplm2.scoring.command:add_score",),
        "ACTION",
    ),
    "embed": Command("write a model's representations of proteins", ("dplm2.representations.embed_command:add_embed",)),
    "probe": Command(
        "predict labels: probes on representations, fine-tuning", ("dplm2.representations.probe_command:add_probe",)
    ),
    "compare-probes": Command(
        "the paper's table of representations beside probes", ("dplm2.representations.probe_command:add_comparison",)
    ),
    "status": Command("list artifacts, training progress and caches", ("dplm2.report.status:add_status",)),
    "clean": Command("remove training states that no configuration refers to", ("dplm2.report.status:add_clean",)),
}


def build_parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    Parameters
    ----------
    arguments
        Only the commands named among these are filled in, and only their modules imported; None: all.
    """
    parser = argparse.ArgumentParser(
        prog="dplm2", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", metavar="FILE", help="also write everything that the command prints to this file")
    parser.add_argument("--note", metavar="JSON", help="for the workflow: input files whose content to remember")
    parser.add_argument("--version", action="version", version=f"dplm2 {__version__}")
    subparsers = parser.add_subparsers(dest="stage", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        own = subparsers.add_parser(name, help=command.help, formatter_class=argparse.RawDescriptionHelpFormatter)
        if arguments is None or name in arguments:
            _fill(own, command)
    return parser


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    # The command modules import torch and biotite only when a command runs.
    if command.group:
        target = parser.add_subparsers(dest=command.group.lower(), metavar=command.group, required=True)
    else:
        target = parser
    for part in command.parts:
        module, function = part.split(":")
        getattr(importlib.import_module(module), function)(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    # At its end Python would look for cycles among the libraries' objects, which takes half as long as their import.
    atexit.register(gc.freeze)
    prepare_process()
    given = sys.argv[1:] if arguments is None else arguments
    options = build_parser(given).parse_args(given)
    if options.log is None or not is_first_process():
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
        return f"{NO_SPACE} in a folder that this command writes; free some space ({error})"
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
