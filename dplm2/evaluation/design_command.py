"""Command line: ``dplm2 design`` and ``dplm2 evaluate designs``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dplm2.settings.command_line import PATHS, add_settings, choose
from dplm2.settings.designs import FilterSettings
from dplm2.settings.generation import TASK_DEFAULTS

DESCRIPTION = """\
Generate designs, filter them, fold and score those that are left, and rank them, in one folder:
  designs.csv     rank, score, all metrics, sequence and structure file of every design; why others were left out
  designs.fasta   the sequences in the same order
  best/           the first that pass: structures, predictions superimposed on them, best.fasta
  samples/, evaluation/   what `dplm2 generate` and `dplm2 evaluate` write
Run it again after an interruption, or with other options: what is finished is not done again.
"""
EPILOG = f"""\
examples:
  dplm2 design --task co-generation --model M --out designs --set lengths=[80] samples=10
  dplm2 design --task co-generation --model M --out designs --fold esmfold --filter max_repeat=5 min_sequence_entropy=2
  dplm2 design --task inverse-folding --model M --out designs --chains 1ubq.pdb --set samples=8 --best 3
  dplm2 design --task scaffolding --model M --out designs --problems motif.yaml --set samples=20 \\
      --rank motif_rmsd=2 sc_tm=1 --at-most motif_rmsd=1 sc_rmsd=2
  dplm2 design --task co-generation --model M --out designs --fold command --config config/folding_boltz.yaml
filters: {", ".join(FilterSettings.model_fields)}
Keys of --set: config/README.md, section generation; those of other sections in full, as evaluation.esmfold.recycles=1.
Folding by `self`, the model that made the designs, needs nothing else but judges its own work; esmfold is independent.
"""
GIVEN_DESCRIPTION = """\
Fold, score and rank designs made by any program. PATH is a FASTA file, a structure file (complex.pdb:A is a chain of
one), an archive, a folder of them at any depth, or a CSV table with the columns id, sequence and file (either may be
empty; the file is relative to the table). Writes what `dplm2 design` writes.
"""
GIVEN_EPILOG = """\
examples:
  dplm2 evaluate designs structures/ --out scored --fold esmfold
  dplm2 evaluate designs sequences.fasta --out scored --model M --at-least plddt=70
  dplm2 evaluate designs designs.csv --out scored --model M --filter max_repeat=5
"""
GIVEN_TASKS = ("co-generation", "backbone", "sequence")
OF_EVALUATION = "evaluation."  # of keys in --set


def add_design(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 design``."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    tasks = [task for task in TASK_DEFAULTS if task not in ("folding", "infilling")]
    parser.add_argument("--task", required=True, choices=tasks, help="what is given, and what is designed")
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or hub id")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for all results")
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer folder or hub id (default: the model's)")
    parser.add_argument(
        "--chains", **PATHS, default=[], metavar="PATH",
        help="inverse-folding: structures, as of `dplm2 generate`; else data sets to draw lengths from",
    )  # fmt: skip
    parser.add_argument("--problems", nargs="+", action="extend", metavar="PATH", help="scaffolding: motif problems")
    parser.add_argument("--references", metavar="DIR", help="scaffolding: folder of the motifs' reference structures")
    _add_choice(parser)
    add_settings(parser, "generation")
    parser.add_argument("--model-name", help="name of the model in the results (default: that of its folder)")
    parser.set_defaults(run=run_design)


def add_designs(actions: argparse._SubParsersAction) -> None:
    """Add ``dplm2 evaluate designs``."""
    parser = actions.add_parser(
        "designs",
        help="score and rank designs made by any program, given as structures or sequences",
        description=GIVEN_DESCRIPTION,
        epilog=GIVEN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("designs", nargs="+", type=Path, metavar="PATH", help="FASTA, CSV, structures, folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for all results")
    parser.add_argument(
        "--task", choices=GIVEN_TASKS, help="what to compare (default: co-generation where there are structures)"
    )
    parser.add_argument("--model", metavar="DIR", help="model folder or hub id, required for the backend `self`")
    parser.add_argument("--model-name", default="given", help="name of the designs in the tables (default: given)")
    _add_choice(parser)
    add_settings(parser, "evaluation")
    parser.set_defaults(run=run_designs)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Options for folding, filters and the ranking."""
    parser.add_argument(
        "--fold",
        choices=["self", "esmfold", "esmfold2", "command"],
        help="folding program (default: the configuration's, else self)",
    )
    assignments: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--filter", **assignments, metavar="KEY=VALUE", help="filters before folding")
    parser.add_argument("--rank", **assignments, metavar="METRIC=WEIGHT", help="weights of the ranking")
    parser.add_argument("--at-least", **assignments, metavar="METRIC=VALUE", help="what a design needs to pass")
    parser.add_argument("--at-most", **assignments, metavar="METRIC=VALUE", help="what a design needs to pass")
    parser.add_argument("--best", type=int, metavar="N", help="maximum number of designs in best/ (default: 10)")


def run_designs(options: argparse.Namespace) -> int:
    """Run ``dplm2 evaluate designs``."""
    from dplm2.core.devices import pick_device
    from dplm2.core.locks import writing_into
    from dplm2.evaluation.benchmarks.job import Job
    from dplm2.evaluation.designing import EVALUATION, SAMPLES, STATE, check, evaluated_and_ranked
    from dplm2.evaluation.given_designs import import_designs

    settings, _, seed, device = choose(_of_evaluation(options, options.set), "evaluation")
    out, device = options.out, pick_device(device)
    with writing_into(out, "evaluate designs"):
        task = import_designs(options.designs, out / SAMPLES, options.model_name, options.task)
        check(task, settings)
        job = Job(
            task=task,
            samples=out / SAMPLES,
            out=out / EVALUATION,
            settings=settings,
            model=options.model,
            state=out / STATE,
            seed=seed,
            device=device,
        )
        return evaluated_and_ranked(job, out)


def run_design(options: argparse.Namespace) -> int:
    """Run ``dplm2 design``."""
    from dplm2.core.devices import pick_device
    from dplm2.core.locks import writing_into
    from dplm2.evaluation.designing import DesignJob, design, needs_likelihood

    elsewhere = [text.removeprefix(OF_EVALUATION) for text in options.set if text.startswith(OF_EVALUATION)]
    evaluation = choose(_of_evaluation(options, elsewhere), "evaluation").section
    given = {key: value for key in ("problems", "references") if (value := getattr(options, key)) is not None}
    if needs_likelihood(evaluation):
        given["likelihood"] = True
    own = [text for text in options.set if not text.startswith(OF_EVALUATION)]
    options = argparse.Namespace(**{**vars(options), "set": own})
    generation, _, seed, device = choose(options, "generation", task=options.task, **given)
    job = DesignJob(
        out=options.out,
        model=options.model,
        generation=generation,
        evaluation=evaluation,
        chains=options.chains,
        tokenizer=options.tokenizer,
        seed=seed,
        device=pick_device(device),
        model_name=options.model_name,
    )
    with writing_into(options.out, "design"):
        return design(job)


def _of_evaluation(options: argparse.Namespace, settings: Sequence[str]) -> argparse.Namespace:
    """The options as those of a command with the section ``evaluation``; ``settings`` as of ``--set``."""
    changes = [*settings]
    changes += [f"filters.{text}" for text in options.filter]
    for key, texts in (("weights", options.rank), ("at_least", options.at_least), ("at_most", options.at_most)):
        changes += [f"ranking.{key}.{text}" for text in texts]
    if options.best is not None:
        changes.append(f"ranking.best={options.best}")
    if options.fold is not None:
        changes.append(f"folding_backend={options.fold}")
    return argparse.Namespace(**{**vars(options), "set": changes, "name": None})
