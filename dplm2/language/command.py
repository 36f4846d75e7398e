"""Command line of the language model: ``model``, ``import model`` and ``export``."""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from dplm2.core.released import TOKENIZER
from dplm2.settings.command_line import PATHS, Chosen, add_settings, choose
from dplm2.settings.model import ModelSettings

WARMUP_EXAMPLE = """\
examples:
  dplm2 model warmup --tokenizer results/tokenizers/demo --tokens results/tokens/demo/demo \\
      --out results/models/demo/initial --state state --config config.yaml --name demo
  dplm2 model warmup --tokenizer T --tokens K --out initial --state state --source esm2_t30_150M_UR50D
Adds structure tokens to a sequence model (ESM-2, DPLM). With `source: scratch` a network of the size `network` is first
trained on sequences only; after an interruption, run the command again to resume.
"""
TRAIN_EXAMPLE = """\
example:
  dplm2 model train --initial results/models/demo/initial --tokens results/tokens/demo/demo \\
      --out results/models/demo --state state --config config.yaml --name demo
After an interruption, run the command again to resume. metrics.csv contains the cross-entropies (nats) of masked
residues per track and task.
"""
IMPORT_EXAMPLE = """\
examples:
  dplm2 import model airkingbd/dplm2_650m models/dplm2_650m
  dplm2 import model downloads/dplm2_650m models/dplm2_650m --tokenizer tokenizers/released
  dplm2 import model last.ckpt models/mine --embedding-scaling released
SOURCE is an official DPLM-2, DPLM-2 Bit or DPLM model: a hub id, a Hugging Face folder, or a Lightning checkpoint (LoRA
merged or not). Import fails unless every weight is mapped. Commands that take a model also accept the hub id of an
official one, which is converted once and cached.
"""
EXPORT_EXAMPLE = """\
example:
  dplm2 export results/models/demo exported --format official
  dplm2 export results/tokenizers/demo exported/struct_tokenizer --format official
The folder has the layout of the authors' hub repositories. Their program reads a local tokenizer from the subfolder
.hydra of the given folder; for that, export to exported/struct_tokenizer/.hydra.
"""


def add_model(actions: argparse._SubParsersAction) -> None:
    """Add the subcommands of ``dplm2 model``."""
    _add_warmup(actions)
    _add_train(actions)


def _add(actions: argparse._SubParsersAction, name: str, help: str, example: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name, help=help, description=help, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", **PATHS, required=True, metavar="DIR", help="tokens of the datasets")
    parser.add_argument(
        "--selection",
        **PATHS,
        default=[],
        metavar="FILE",
        help="selection.parquet of the datasets",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the model to write")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="folder of resumable training state")
    add_settings(parser, "models")


def _add_warmup(actions: argparse._SubParsersAction) -> None:
    parser = _add(actions, "warmup", "Create the initial model for multimodal training.", WARMUP_EXAMPLE)
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="folder or hub id of the structure tokenizer")
    parser.add_argument("--source", help="overrides the configuration's warmup.source (or warmup.model)")
    _add_data(parser)
    parser.set_defaults(run=run_warmup)


def _add_train(actions: argparse._SubParsersAction) -> None:
    parser = _add(
        actions, "train", "Train a warmed-up model on sequence and structure; resumes if interrupted.", TRAIN_EXAMPLE
    )
    parser.add_argument("--initial", type=Path, required=True, metavar="DIR", help="folder of the warmed-up model")
    _add_data(parser)
    parser.set_defaults(run=run_train)


def add_import(actions: argparse._SubParsersAction) -> None:
    """Add ``dplm2 import model``."""
    parser = _add(
        actions,
        "model",
        "Convert an official DPLM-2, DPLM-2 Bit or DPLM model to this package's format.",
        IMPORT_EXAMPLE,
    )
    parser.add_argument("source", help="hub id, Hugging Face folder or Lightning checkpoint")
    parser.add_argument("destination", type=Path, help="folder of the model to write")
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help=f"folder or hub id of its structure tokenizer (default: {TOKENIZER} for a hub id)",
    )
    parser.add_argument(
        "--embedding-scaling",
        choices=["none", "once", "released", "released_bit"],
        help="default: according to its config.json; without one, as in the released models",
    )
    parser.add_argument(
        "--structure-head",
        choices=["codes", "bits"],
        help="required structure head: codes (DPLM-2) or bits (DPLM-2 Bit); default: either",
    )
    parser.set_defaults(run=run_import)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dplm2 export``."""
    parser.description, parser.epilog = "Write a model or tokenizer in the format of another program.", EXPORT_EXAMPLE
    parser.add_argument("folder", type=Path, help="folder of the model or tokenizer")
    parser.add_argument("destination", type=Path, help="folder to write")
    parser.add_argument(
        "--format", choices=["official"], required=True, help="official: format of the DPLM-2 authors' program"
    )
    parser.set_defaults(run=run_export)


def _chosen(options: argparse.Namespace, **given: object) -> Chosen:
    """The model to train, and its device."""
    from dplm2.core.devices import pick_device
    from dplm2.core.errors import ConfigError

    chosen = choose(options, "models", **given)
    if chosen.section.pretrained:
        raise ConfigError(f"models.{chosen.name}.pretrained: this model is already trained; there is nothing to train")
    return chosen._replace(device=pick_device(chosen.device))


def _writing(options: argparse.Namespace, settings: ModelSettings, seed: int) -> AbstractContextManager:
    """Lock the output folder for the processes of this training, which share it."""
    from dplm2.core.artifacts import fingerprint
    from dplm2.core.locks import writing_into
    from dplm2.settings.roles import plain

    return writing_into(options.out, f"model {options.action}", shared=fingerprint([plain(settings), seed]))


def run_warmup(options: argparse.Namespace) -> None:
    """Run ``dplm2 model warmup``."""
    from dplm2.core.errors import ConfigError
    from dplm2.language.stages import warm_up

    given = {"warmup": {"source": options.source, "model": None}} if options.source else {}
    settings, _, seed, device = _chosen(options, **given)
    if settings.warmup.model is not None:
        raise ConfigError(f"--source: give the folder of the trained model {settings.warmup.model!r} (warmup.model)")
    with _writing(options, settings, seed):
        warm_up(
            options.tokens,
            options.tokenizer,
            options.out,
            options.state,
            settings,
            selections=options.selection,
            seed=seed,
            device=device,
        )
    print(f"initial model: {options.out}")


def run_train(options: argparse.Namespace) -> None:
    """Run ``dplm2 model train``."""
    from dplm2.language.stages import train

    settings, _, seed, device = _chosen(options)
    with _writing(options, settings, seed):
        train(
            options.initial,
            options.tokens,
            options.out,
            options.state,
            settings,
            selections=options.selection,
            seed=seed,
            device=device,
        )
    print(f"model: {options.out}")


def run_import(options: argparse.Namespace) -> None:
    """Run ``dplm2 import model``."""
    from dplm2.core.folders import downloaded_folder
    from dplm2.core.hub import is_hub_id
    from dplm2.language.importing import import_model
    from dplm2.language.warmup import relative_to
    from dplm2.tokenizer.model import StructureTokenizer

    tokenizer, fingerprint = TOKENIZER if is_hub_id(options.source) else None, None
    if options.tokenizer:
        tokenizer = relative_to(options.destination, options.tokenizer)
        fingerprint = StructureTokenizer.from_pretrained(options.tokenizer).codes_fingerprint
    source, origin = downloaded_folder(options.source, "model")
    network = import_model(
        source,
        options.destination,
        tokenizer=tokenizer,
        tokenizer_fingerprint=fingerprint,
        embedding_scaling=options.embedding_scaling,
        structure_head=options.structure_head,
        **origin,
    )
    kind = "DPLM model" if network.is_sequence_model else f"DPLM-2 model, structure_head {network.head.name}"
    print(f"{kind}, embedding_scaling {network.embedding_scaling}: {options.destination}")


def run_export(options: argparse.Namespace) -> None:
    """Run ``dplm2 export``."""
    from dplm2.core.artifacts import read_json_object
    from dplm2.language.importing import export_model
    from dplm2.tokenizer.exporting import export_tokenizer
    from dplm2.tokenizer.model import CONFIG_FILE, FORMAT

    if read_json_object(options.folder / CONFIG_FILE).get("format") != FORMAT:
        export_model(options.folder, options.destination)
    elif not export_tokenizer(options.folder, options.destination):
        print("note: the authors' program can build only ESM-IF1's encoder, whose sizes differ from this one's")
    print(f"exported: {options.destination}")
