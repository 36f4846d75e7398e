"""Command line: ``dplm2 generate TASK``."""

import argparse
from pathlib import Path

from dplm2.generation.task import GenerationTask
from dplm2.generation.tasks import TASKS
from dplm2.settings.command_line import PATHS, add_settings, choose


def add_tasks(actions: argparse._SubParsersAction) -> None:
    """Add the tasks of ``dplm2 generate``."""
    for name, task in TASKS.items():
        _add_task(actions, name, task)


def _add_task(actions: argparse._SubParsersAction, name: str, task: GenerationTask) -> None:
    parser = actions.add_parser(
        name,
        help=task.meaning,
        description=f"Generate {task.meaning}.",
        epilog=f"examples:\n{task.examples}\nKeys of --set: config/README.md, section generation.\n"
        "After an interruption, run it again: finished samples are kept.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or hub id")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for samples.parquet and structures/"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer folder or hub id (default: the model's)")
    if task.chains:
        parser.add_argument(
            "--chains", **PATHS, default=[], metavar="PATH",
            help=f"{task.chains}: data-set folders, Parquet files of chains, structure files (complex.pdb:A selects "
            "chain A), archives, or folders of them at any depth",
        )  # fmt: skip
    if task.problems:
        parser.add_argument(
            "--problems", nargs="+", action="extend", metavar="PATH", help=f"{task.problems}: files or folders of them"
        )
    if task.references:
        parser.add_argument("--references", metavar="DIR", help="folder of the motifs' reference structures")
    add_settings(parser, "generation")
    parser.add_argument("--model-name", help="name of the model in the results (default: that of its folder)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="folder for finished samples of an unfinished run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run ``dplm2 generate TASK``."""
    from dplm2.core.devices import pick_device
    from dplm2.core.locks import writing_into
    from dplm2.generation.run import generate_folder

    given = {key: value for key in ("problems", "references") if (value := getattr(options, key, None)) is not None}
    settings, _, seed, device = choose(options, "generation", task=options.task, **given)
    with writing_into(options.out, f"generate {options.task}"):
        lengths = generate_folder(
            options.model,
            options.out,
            settings,
            seed=seed,
            chains=getattr(options, "chains", []),
            tokenizer=options.tokenizer,
            state=options.state,
            model_name=options.model_name,
            device=pick_device(device),
        )
    shortest, longest = min(lengths), max(lengths)
    residues = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    print(f"samples: {options.out} ({len(lengths)} of {residues} residues)")
