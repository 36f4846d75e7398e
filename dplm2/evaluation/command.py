"""Command line of the evaluation stage: ``dplm2 evaluate``."""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from dplm2.evaluation.design_command import add_designs
from dplm2.settings.command_line import PATHS, add_settings, choose

BENCHMARKS = {
    "co-generation": "fold the generated sequences, compare with the generated structures (scTM, scRMSD, pLDDT)",
    "backbone": "design sequences for generated backbones, fold them, compare",
    "sequence": "fold generated sequences, measure their confidence",
    "folding": "compare predicted structures with the natives (RMSD, TM-score, lDDT)",
    "inverse-folding": "recovery of the natives' sequences; fold the designed ones, compare with the natives",
    "scaffolding": "fold the designs; motif RMSD, success by problem",
}
DESCRIPTION = """\
Evaluate samples, a tokenizer or a language model. Each benchmark writes into --out:
  metrics.parquet   a row per sample (likelihood: per task and track); failed ones are marked, never dropped
  summary.csv       model, task, dataset, metric, value, n, backend, n_failed, median, 95 % interval
  groups.csv        the same by length or by problem, if there are several
  folded.parquet    predictions of the folding program, if one was used
  reconstructed.parquet   (reconstruction) some chains before and after, from the best lDDT to the worst
  run.json          settings, versions, time
"""
OUT = "folder for summary.csv, metrics.parquet and run.json (described in `dplm2 evaluate --help`)"
EPILOG = """\
examples:
  dplm2 evaluate reconstruction --tokenizer results/tokenizers/demo --chains results/structures/test --out tables
  dplm2 evaluate folding --samples results/samples/demo/folding --chains results/structures/test --out tables
  dplm2 evaluate co-generation --samples results/samples/demo/co-generation --model results/models/demo --out tables
  dplm2 evaluate co-generation --samples samples --out table \\
      --config '{"evaluation": {"folding_backend": "esmfold", "esmfold": {"model": "weights/esmfold"}}}'
  dplm2 evaluate co-generation --samples samples --out table --config config/folding_boltz.yaml
"""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 evaluate``."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    actions = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    _add_reconstruction(actions, "reconstruction")
    _add_likelihood(actions)
    for name, text in BENCHMARKS.items():
        _add_samples(actions, name, text)
    add_designs(actions)
    _add_compare(actions)


def add_tokenizer(actions: argparse._SubParsersAction) -> None:
    """Add ``dplm2 tokenizer evaluate``, another name of ``dplm2 evaluate reconstruction``."""
    _add_reconstruction(actions, "evaluate")


def _add(actions: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=OUT)
    add_settings(parser, "evaluation")
    return parser


def _add_reconstruction(actions: argparse._SubParsersAction, name: str) -> None:
    parser = _add(actions, name, "encode and decode chains, compare them with themselves (RMSD, TM-score, lDDT)")
    parser.add_argument("--name", help="name of the tokenizer in the tables (default: that of its folder)")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="tokenizer folder or hub id")
    parser.add_argument("--chains", **PATHS, required=True, metavar="DIR", help="datasets to reconstruct")
    parser.add_argument("--split", choices=["train", "validation", "test"], help="only chains of this split")
    parser.add_argument(
        "--untrained", action="store_true", help="evaluate random weights of the same architecture, for comparison"
    )
    parser.add_argument(
        "--tokens",
        **PATHS,
        default=[],
        metavar="DIR",
        help="existing tokens of the chains, instead of encoding them",
    )
    parser.set_defaults(run=run_reconstruction)


def _add_likelihood(actions: argparse._SubParsersAction) -> None:
    parser = _add(
        actions, "likelihood", "cross-entropy of masked tokens: trained model, model before training, unigram baseline"
    )
    parser.add_argument("--name", help="name of the model in the tables (default: that of its folder)")
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of the trained model, or hub id")
    parser.add_argument("--initial", metavar="DIR", help="folder of the model before training (models/NAME/initial)")
    parser.add_argument("--tokens", **PATHS, required=True, metavar="DIR", help="tokens of datasets")
    parser.add_argument(
        "--selection",
        **PATHS,
        default=[],
        metavar="FILE",
        help="selection.parquet of the datasets",
    )
    parser.add_argument("--split", choices=["train", "validation", "test"], help="only chains of this split")
    parser.set_defaults(run=run_likelihood)


def _add_samples(actions: argparse._SubParsersAction, name: str, text: str) -> None:
    parser = _add(actions, name, text)
    parser.add_argument("--samples", type=Path, required=True, metavar="DIR", help="folder with samples.parquet")
    if name in ("folding", "inverse-folding"):
        parser.add_argument(
            "--chains",
            **PATHS,
            required=True,
            metavar="DIR",
            help="datasets of the natives",
        )
    parser.add_argument("--model", metavar="DIR", help="model folder, required for the backend `self`")
    parser.add_argument(
        "--state",
        type=Path,
        default=Path("state"),
        metavar="DIR",
        help="folder in which folded sequences are stored (default: state)",
    )
    parser.set_defaults(run=run_samples)


def _add_compare(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "compare",
        help="compare summaries with published results",
        description="Compare summaries with published results: CSV, Parquet and LaTeX tables.",
    )
    parser.add_argument("summaries", nargs="+", type=Path, help="summary.csv files, or folders with them below")
    parser.add_argument(
        "--model",
        nargs="+",
        required=True,
        help="published model to compare with, for example 'DPLM-2 650M'; or one for each of several, OURS=PUBLISHED",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for comparison.csv, .parquet, and TASK.tex each"
    )
    parser.set_defaults(run=run_compare)


def _settings(options: argparse.Namespace):
    """The section ``evaluation``, the seed and the device."""
    from dplm2.core.devices import pick_device

    settings, _, seed, device = choose(options, "evaluation")
    return {"settings": settings, "seed": seed, "device": pick_device(device), "out": options.out}


def _writing(options: argparse.Namespace) -> AbstractContextManager:
    from dplm2.core.locks import writing_into

    return writing_into(options.out, f"evaluate {options.benchmark if 'benchmark' in options else 'reconstruction'}")


def run_reconstruction(options: argparse.Namespace) -> int:
    """Run ``dplm2 evaluate reconstruction``."""
    from dplm2.core.errors import ConfigError
    from dplm2.evaluation.benchmarks import reconstruction
    from dplm2.evaluation.published import beside_published

    if options.untrained and options.tokens:
        raise ConfigError("--tokens: not with --untrained, whose random weights give other tokens")
    with _writing(options):
        status = reconstruction.run(
            reconstruction.ReconstructionJob(
                tokenizer=options.tokenizer,
                chains=tuple(options.chains),
                split=options.split,
                untrained=options.untrained,
                tokens=tuple(options.tokens),
                name=options.name,
                **_settings(options),
            )
        )
    print(beside_published(options.out))
    return status


def run_likelihood(options: argparse.Namespace) -> int:
    """Run ``dplm2 evaluate likelihood``."""
    from dplm2.evaluation.benchmarks import likelihood

    with _writing(options):
        return likelihood.run(
            likelihood.LikelihoodJob(
                model=options.model,
                initial=options.initial,
                tokens=tuple(options.tokens),
                selections=tuple(options.selection),
                split=options.split,
                name=options.name,
                **_settings(options),
            )
        )


def run_samples(options: argparse.Namespace) -> int:
    """Run a benchmark of samples."""
    from dplm2.evaluation.benchmarks import run_job
    from dplm2.evaluation.benchmarks.job import Job

    job = Job(
        task=options.benchmark,
        samples=options.samples,
        chains=tuple(getattr(options, "chains", ())),
        model=options.model,
        state=options.state,
        **_settings(options),
    )
    with _writing(options):
        return run_job(job)


def run_compare(options: argparse.Namespace) -> int:
    """Run ``dplm2 evaluate compare``."""
    from dplm2.core.errors import ConfigError
    from dplm2.evaluation.published import compare_summaries

    pairs = [name.partition("=") for name in options.model]
    if len(pairs) > 1 and not all(equals for _, equals, _ in pairs):
        raise ConfigError("--model: give one published model, or OURS=PUBLISHED for each of several")
    named = {ours: published for ours, _, published in pairs} if pairs[0][1] else options.model[0]
    with _writing(options):
        return compare_summaries(options.summaries, named, options.out)
