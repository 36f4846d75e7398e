"""Command line: ``dplm2 score likelihood``, ``mutations`` and ``proteingym``."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dplm2.core.devices import DEVICES
from dplm2.scoring.views import MARGINALS, VIEW_NAMES, WINDOW

if TYPE_CHECKING:
    import pandas as pd

    from dplm2.scoring.queries import Reading

KEPT_FOLDER = "unfinished"  # values of an interrupted run
FORMATS = ("csv", "parquet")
INPUT_HELP = (
    "FASTA files, structure files (complex.pdb:A selects chain A), archives, folders of them at any depth, data "
    "sets of chains, files or folders of tokens"
)
LIKELIHOOD_EXAMPLES = """\
examples:
  dplm2 score likelihood proteins.fasta --model results/models/demo --out scores
  dplm2 score likelihood structures/ --model M --out scores --views sequence_given_structure pair --residues
  dplm2 score likelihood proteins.fasta --model M --out scores --parts 8
views (by default all that an input allows; scores of residues are log-probabilities in nats):
  sequence, structure                 a track by itself
  sequence_given_structure            the sequence, with the structure given
  structure_given_sequence            the structure, with the sequence given
  pair                                both tokens of a residue, masked together
After an interruption, run it again: it resumes after the last finished proteins.
"""
MUTATIONS_EXAMPLES = """\
examples:
  dplm2 score mutations 1ubq.pdb --model results/models/demo --out scores --mutations K6A K6A:I44V
  dplm2 score mutations proteins.fasta --model M --out scores --table mutations.csv
  dplm2 score mutations complex.pdb:A --model M --out scores --all --numbering author
mutations.csv has a column `mutant` (K6A:I44V; WT is the wild type) and, for several proteins, `protein`.
A score is log p(mutant) - log p(wild type) in nats, summed over the substitutions: higher is better.
"""
PROTEINGYM_EXAMPLES = """\
example:
  dplm2 score proteingym --reference DMS_substitutions.csv --assays-folder DMS_ProteinGym_substitutions \\
      --structures ProteinGym_AF2_structures --model airkingbd/dplm2_650m --out proteingym
After an interruption, run it again: finished assays are kept.
"""


def add_score(actions: argparse._SubParsersAction) -> None:
    """Add the commands of ``dplm2 score``."""
    _add_likelihood(actions)
    _add_mutations(actions)
    _add_proteingym(actions)


def _add_likelihood(actions: argparse._SubParsersAction) -> None:
    parser = _parser(actions, "likelihood", "log-likelihood and pseudo-perplexity of proteins", LIKELIHOOD_EXAMPLES)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help=INPUT_HELP)
    _add_common(parser)
    parser.add_argument("--views", nargs="+", choices=VIEW_NAMES, help="what is scored, given what (default: all)")
    parser.add_argument("--residues", action="store_true", help="also write residues.parquet, one row per residue")
    parser.add_argument(
        "--parts", type=positive, metavar="N",
        help="mask the residues in N random parts, one pass each, instead of one by one: faster, less exact",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the random parts (default: 0)")
    parser.set_defaults(run=_likelihood)


def _add_mutations(actions: argparse._SubParsersAction) -> None:
    parser = _parser(actions, "mutations", "effects of mutations", MUTATIONS_EXAMPLES)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help=f"wild types: {INPUT_HELP}")
    _add_common(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--mutations", nargs="+", metavar="MUTANT", help="such as A23V or A23V:G45D")
    which.add_argument("--table", type=Path, metavar="CSV", help="table with a column mutant")
    which.add_argument("--all", action="store_true", help="all single mutations, and a heat map (SVG) per protein")
    parser.add_argument("--numbering", choices=("sequence", "author"), default="sequence", help="meaning of numbers")
    parser.add_argument("--first-residue", type=int, default=1, metavar="N", help="number of the first residue")
    parser.set_defaults(run=_mutations)


def _add_proteingym(actions: argparse._SubParsersAction) -> None:
    parser = _parser(actions, "proteingym", "Spearman correlation on ProteinGym's assays", PROTEINGYM_EXAMPLES)
    parser.add_argument("--reference", type=Path, required=True, metavar="CSV", help="DMS_substitutions.csv")
    parser.add_argument("--assays-folder", type=Path, required=True, metavar="DIR", help="folder of the assays' tables")
    parser.add_argument(
        "--structures", type=Path, metavar="DIR", help="folder of the files in pdb_file; else sequences"
    )
    parser.add_argument("--assays", nargs="+", default=[], metavar="DMS_ID", help="only these")
    _add_common(parser, tracks=False)
    parser.set_defaults(run=_proteingym)


def _parser(actions: argparse._SubParsersAction, name: str, meaning: str, examples: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=meaning,
        description=f"{meaning[0].upper()}{meaning[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_common(parser: argparse.ArgumentParser, tracks: bool = True) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or hub id")
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer (default: the model's)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the scores and run.json")
    if tracks:
        parser.add_argument(
            "--tracks", choices=("both", "sequence", "structure"), default="both",
            help="tracks of the input; sequence: structures are not given to the model",
        )  # fmt: skip
        parser.add_argument("--format", choices=FORMATS, default="csv", help="of the tables")
    parser.add_argument(
        "--marginals", choices=MARGINALS, default="masked",
        help="masked: each residue is masked when it is scored, one pass each; wild-type: one pass without masks",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=positive, default=WINDOW, metavar="N",
        help=f"longest stretch that the model sees (default: {WINDOW} residues)",
    )  # fmt: skip
    parser.add_argument("--token-budget", type=positive, default=8192, help="maximum number of tokens per batch")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device for networks (default: a GPU if any)")


def positive(text: str) -> int:
    """A number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _opened(options: argparse.Namespace):  # noqa: ANN202
    from dplm2.core.devices import pick_device
    from dplm2.generation.model import DPLM2

    return DPLM2.from_pretrained(options.model, options.tokenizer, pick_device(options.device))


def _reading(options: argparse.Namespace) -> "Reading":
    from dplm2.core.errors import ConfigError
    from dplm2.scoring.queries import Reading

    parts, seed = getattr(options, "parts", None), getattr(options, "seed", 0)
    if parts is not None and options.marginals == "wild-type":
        raise ConfigError("--parts: has no effect with --marginals wild-type, which masks nothing")
    return Reading(options.marginals, parts, options.window, seed, options.token_budget)


def _settings(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What decides the scores, for run.json."""
    return {name: getattr(options, name) for name in ("marginals", "window", *names)}


def _write(folder: Path, name: str, frame: "pd.DataFrame", kind: str) -> Path:
    from dplm2.core import parquet
    from dplm2.core.artifacts import write_text

    path = folder / f"{name}.{kind}"
    if kind == "csv":
        write_text(path, frame.to_csv(index=False))
    else:
        parquet.write_frame(path, frame)
    return path


def _likelihood(options: argparse.Namespace) -> None:
    import pandas as pd

    from dplm2.core.artifacts import RunRecord
    from dplm2.core.locks import writing_into
    from dplm2.generation.proteins import contents_of, read_proteins
    from dplm2.scoring.likelihood import residue_likelihoods, residue_rows, summary_row

    reading, inputs = _reading(options), contents_of(options.inputs)
    model = _opened(options)
    targets = read_proteins(model, options.inputs, options.tracks)
    settings = _settings(options, "tracks", "views", "parts", "seed")
    record = RunRecord("score likelihood", settings, {"model": model.fingerprint, **inputs}, model.network.device.type)
    with writing_into(options.out, "score likelihood"):
        rows, residues = [], []
        kept = options.out / KEPT_FOLDER
        scored = residue_likelihoods(model, targets, options.views, reading, "score", kept)
        for target, found in zip(targets, scored, strict=True):
            rows.append(summary_row(target, found))
            if options.residues:
                residues.append(residue_rows(target, found))
        record.supersede(options.out, "residues.parquet")
        if residues:
            _write(options.out, "residues", pd.concat(residues, ignore_index=True), "parquet")
        path = _write(options.out, "scores", pd.DataFrame(rows), options.format)
        record.write(options.out, proteins=len(targets), residues=sum(target.length for target in targets))
        shutil.rmtree(kept, ignore_errors=True)
    print(f"{path}: {len(targets)} proteins")


def _mutations(options: argparse.Namespace) -> None:
    import pandas as pd

    from dplm2.core.artifacts import RunRecord
    from dplm2.core.locks import writing_into
    from dplm2.generation.proteins import contents_of
    from dplm2.scoring.effects import mutant_scores
    from dplm2.scoring.variants import assigned, read_mutations, read_wild_types

    reading, inputs = _reading(options), contents_of(options.inputs)
    if options.table:
        inputs |= contents_of([options.table])
    model = _opened(options)
    wild_types = read_wild_types(model, options.inputs, options.tracks, options.numbering, options.first_residue)
    settings = _settings(options, "tracks", "mutations", "all", "numbering", "first_residue")
    record = RunRecord("score mutations", settings, {"model": model.fingerprint, **inputs}, model.network.device.type)
    with writing_into(options.out, "score mutations"):
        if options.all:
            table = _all_mutations(model, wild_types, reading, options.out)
        else:
            given = [("--mutations", "", text) for text in options.mutations or ()]
            given = read_mutations(options.table) if options.table else given
            variants = list(assigned(wild_types, given))
            table = pd.DataFrame(index=range(len(given)), columns=["protein", "mutant", "score"])
            for one in variants:
                scores = mutant_scores(model, one.target, one.mutants, reading, one.target.name)
                table.loc[one.rows, "mutant"], table.loc[one.rows, "score"] = one.texts, scores
                table.loc[one.rows, "protein"] = one.target.name
            table = table.astype({"score": float})
        record.supersede(options.out)
        path = _write(options.out, "mutations", table, options.format)
        record.write(options.out, proteins=len(wild_types), mutants=len(table))
    print(f"{path}: {len(table)} mutants")


def _all_mutations(model, wild_types, reading, out: Path) -> "pd.DataFrame":  # noqa: ANN001
    """The table of all single mutations; writes a heat map per protein."""
    import numpy as np
    import pandas as pd

    from dplm2.core.artifacts import write_text
    from dplm2.core.names import file_names
    from dplm2.scoring.effects import amino_acid_log_probabilities, effect_matrix
    from dplm2.scoring.heat_map import heat_map
    from dplm2.scoring.mutations import AMINO_ACIDS, all_single

    tables = []
    names = file_names([target.name for target, _ in wild_types])
    for name, (target, protein) in zip(names, wild_types, strict=True):
        singles = all_single(protein)
        known = sorted({mutant[0].position for _, mutant in singles})
        log_probabilities_LA = np.full((target.length, len(AMINO_ACIDS)), np.nan)
        log_probabilities_LA[known] = amino_acid_log_probabilities(model, target, known, reading, target.name)
        effects_LA = effect_matrix(target, log_probabilities_LA)
        scores = [effects_LA[m[0].position, AMINO_ACIDS.index(m[0].mutant)] for _, m in singles]
        rows = {"protein": target.name, "mutant": [text for text, _ in singles], "score": scores}
        tables.append(pd.DataFrame(rows))
        write_text(out / f"heat_map_{name}.svg", heat_map(protein, effects_LA))
    return pd.concat(tables, ignore_index=True)


def _proteingym(options: argparse.Namespace) -> None:
    from dplm2.core.locks import writing_into
    from dplm2.scoring.proteingym import read_reference
    from dplm2.scoring.proteingym_run import score_assays

    reading, assays = _reading(options), read_reference(options.reference, options.assays)
    model = _opened(options)
    with writing_into(options.out, "score proteingym"):
        summary, mean = score_assays(
            model, assays, options.assays_folder, options.structures, reading, options.out, options.reference
        )
    print(f"{options.out / 'summary.csv'}: {len(summary)} assays, Spearman {mean:.3f}")
