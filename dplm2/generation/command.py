"""Command line: ``dplm2 generate TASK``."""

import argparse
from pathlib import Path

from dplm2.settings.command_line import add_settings, choose

TASKS = {
    "co-generation": "sequence and structure together, from nothing but a length",
    "sequence": "sequences alone",
    "backbone": "backbones alone",
    "folding": "a structure for each given sequence",
    "inverse-folding": "a sequence for each given structure",
    "scaffolding": "proteins around given motifs",
    "infilling": "any missing part of given proteins, or variants of them",
}
EXAMPLES = {
    "co-generation": """\
  dplm2 generate co-generation --model results/models/demo --out designs --set lengths=[100,200] samples=10
  dplm2 generate co-generation --model M --out O --config config.yaml --name co-generation""",
    "sequence": "  dplm2 generate sequence --model results/models/demo --out sequences --set lengths=[100] samples=10",
    "backbone": """\
  dplm2 generate backbone --model M --out backbones --set 'lengths={minimum: 80, maximum: 200}' samples=50""",
    "folding": """\
  dplm2 generate folding --model results/models/demo --out folded --chains proteins.fasta
  dplm2 generate folding --model M --out folded --chains results/structures/test
  dplm2 generate folding --model M --out loops --chains 1ubq.pdb --set fixed=1-30,45-76""",
    "inverse-folding": """\
  dplm2 generate inverse-folding --model M --out sequences --chains results/structures/test
  dplm2 generate inverse-folding --model M --out sequences --chains 1ubq.pdb designs/ --set samples=8""",
    "scaffolding": """\
  dplm2 generate scaffolding --model M --out scaffolds --problems config/motifs/1PRW.yaml --references pdb/
A problem is a YAML file:
  name: 1PRW
  reference: 1prw.pdb                          # beside the YAML file, or in --references
  contig: 5-20,A16-35,10-25,A52-71,5-20        # 5-20 new residues, residues 16-35 of chain A, ...
  total_length: [60, 100]                      # if wanted
RFdiffusion's contigs ([5-20/A16-35/10-25]) are read as well. H52-52A is a range with an insertion code; ranges run over
all of these. A chain id of more than a letter is followed by a slash, or stands in quotes: heavy/16-35, "A-2"16-35.""",
    "infilling": """\
  dplm2 generate infilling --model M --out loops --chains 1ubq.pdb --set mask_sequence=8-11 mask_structure=8-11
  dplm2 generate infilling --model M --out variants --chains 1ubq.pdb --set renoise=0.3 samples=20
  dplm2 generate infilling --model M --out filled --problems table.csv
A residue table (CSV or Parquet) has the columns position, residue, structure_token; an empty cell is generated.""",
}


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add ``generate`` and its tasks to the command line."""
    generate = subparsers.add_parser("generate", help="generate proteins with a model")
    actions = generate.add_subparsers(dest="task", metavar="TASK", required=True)
    for task, meaning in TASKS.items():
        _add_task(actions, task, meaning)


def _add_task(actions: argparse._SubParsersAction, task: str, meaning: str) -> None:
    parser = actions.add_parser(
        task,
        help=meaning,
        description=f"Generate {meaning}.",
        epilog=f"examples:\n{EXAMPLES[task]}\nKeys of --set: config/README.md, section generation.\n"
        "Run it again after an interruption: samples that are finished are kept.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or hub id")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for samples.parquet and structures/"
    )
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="tokenizer folder or hub id (default: the one the model names)"
    )
    if task != "scaffolding":
        what = (
            "draw lengths from these (with dataset in the configuration)"
            if task in _UNCONDITIONAL
            else "what to work on"
        )
        parser.add_argument(
            "--chains", nargs="+", action="extend", type=Path, default=[], metavar="PATH",
            help=f"{what}: data-set folders, Parquet files of chains, structure files or folders of them"
            + (", FASTA files" if task == "folding" else ""),
        )  # fmt: skip
    if task in ("scaffolding", "infilling"):
        what = "motif problems (YAML)" if task == "scaffolding" else "residue tables (CSV or Parquet)"
        parser.add_argument(
            "--problems", nargs="+", action="extend", metavar="PATH", help=f"{what}: files or folders of them"
        )
    if task == "scaffolding":
        parser.add_argument("--references", metavar="DIR", help="folder of the motifs' reference structures")
    add_settings(parser, "generation")
    parser.add_argument("--model-name", help="name of the model in the results (default: the folder's)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="folder for finished samples of an unfinished run")
    parser.set_defaults(run=run)


_UNCONDITIONAL = ("co-generation", "sequence", "backbone")


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
