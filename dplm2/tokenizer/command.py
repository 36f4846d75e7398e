"""Command line of the structure tokenizer: ``tokenizer``, ``tokens`` and ``import tokenizer``."""

import argparse
from pathlib import Path

from dplm2.settings.command_line import PATHS, add_settings, choose

TRAIN_EXAMPLE = """\
example:
  dplm2 tokenizer train --chains results/structures/demo --out results/tokenizers/demo --state state \\
      --config config.yaml --name demo
After an interruption, run the command again to resume.
"""
ENCODE_EXAMPLE = """\
examples:
  dplm2 tokens encode results/structures/demo --tokenizer results/tokenizers/demo --out results/tokens/demo/demo
  dplm2 tokens encode results/structures/demo/part-00003.parquet --tokenizer results/tokenizers/demo --out shard.parquet
A folder is processed file by file; finished files are kept, so the same command resumes. Several processes running the
same command, on one machine or on several with a common file system, share the files.
"""
DECODE_EXAMPLE = """\
example:
  dplm2 tokens decode results/tokens/demo/test --tokenizer results/tokenizers/demo --out decoded --format pdb
"""
IMPORT_TOKENIZER_EXAMPLE = """\
examples:
  dplm2 import tokenizer airkingbd/struct_tokenizer tokenizers/released
  dplm2 import tokenizer checkpoints/struct_tokenizer tokenizers/released
  dplm2 import tokenizer last.ckpt tokenizers/mine --model-config config.yaml
SOURCE is a checkpoint of the DPLM-2 authors' structure tokenizer (.ckpt, .pt, .pth, .bin or .safetensors), the folder
that contains it and its YAML, or a hub id. Import fails unless every key is mapped. Tokenizers of this package do not
need to be imported.
"""


def add_tokenizer(actions: argparse._SubParsersAction) -> None:
    """Add ``dplm2 tokenizer train``."""
    _add_train(actions)


def add_tokens(actions: argparse._SubParsersAction) -> None:
    """Add the subcommands of ``dplm2 tokens``."""
    _add_encode(actions)
    _add_decode(actions)


def _add(actions: argparse._SubParsersAction, name: str, help: str, example: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name, help=help, description=help, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _add_train(actions: argparse._SubParsersAction) -> None:
    parser = _add(actions, "train", "Train a structure tokenizer on chains; resumes if interrupted.", TRAIN_EXAMPLE)
    parser.add_argument("--chains", **PATHS, required=True, metavar="DIR", help="datasets to train on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the finished tokenizer")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="folder of resumable training state")
    add_settings(parser, "tokenizers")
    parser.set_defaults(run=run_train)


def _add_encode(actions: argparse._SubParsersAction) -> None:
    parser = _add(actions, "encode", "Encode the chains of datasets as structure tokens.", ENCODE_EXAMPLE)
    parser.add_argument("chains", nargs="+", type=Path, help="dataset folders, or Parquet files of chains")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="tokenizer folder or hub id")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the tokens; for one Parquet file of chains also a .parquet file",
    )
    add_settings(parser, "tokenizers")
    parser.set_defaults(run=run_encode)


def _add_decode(actions: argparse._SubParsersAction) -> None:
    parser = _add(actions, "decode", "Decode structure tokens to structure files.", DECODE_EXAMPLE)
    parser.add_argument("tokens", nargs="+", type=Path, help="folders or Parquet files of tokens")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="tokenizer folder or hub id")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for <chain_id>.<format>")
    parser.add_argument("--format", choices=["bcif", "bcif.gz", "cif", "pdb"], default="bcif", help="default: bcif")
    add_settings(parser, "tokenizers")
    parser.set_defaults(run=run_decode)


def add_import(actions: argparse._SubParsersAction) -> None:
    """Add ``dplm2 import tokenizer``."""
    parser = _add(
        actions,
        "tokenizer",
        "Convert a checkpoint of the authors' structure tokenizer to this package's format.",
        IMPORT_TOKENIZER_EXAMPLE,
    )
    parser.add_argument("source", help="checkpoint file, its folder, or a hub id")
    parser.add_argument("destination", type=Path, help="folder of the tokenizer to write")
    parser.add_argument(
        "--model-config",
        type=Path,
        metavar="YAML",
        help="the authors' YAML (default: the one in the checkpoint's folder)",
    )
    parser.set_defaults(run=run_import_tokenizer)


def run_train(options: argparse.Namespace) -> None:
    """Run ``dplm2 tokenizer train``."""
    from dplm2.core.artifacts import fingerprint
    from dplm2.core.devices import pick_device
    from dplm2.core.locks import writing_into
    from dplm2.settings.roles import plain
    from dplm2.tokenizer.training import train_tokenizer

    settings, _, seed, device = choose(options, "tokenizers")
    # The processes of one training share the folder.
    with writing_into(options.out, "tokenizer train", shared=fingerprint([plain(settings), seed])):
        train_tokenizer(options.chains, options.out, options.state, settings, seed=seed, device=pick_device(device))
    print(f"tokenizer: {options.out}")


def run_encode(options: argparse.Namespace) -> None:
    """Run ``dplm2 tokens encode``."""
    from dplm2.core.artifacts import RunRecord, fingerprint, sha256_of_file
    from dplm2.core.devices import pick_device
    from dplm2.core.errors import ConfigError
    from dplm2.core.locks import writing_into
    from dplm2.settings.roles import deciding, plain
    from dplm2.tokenizer.model import StructureTokenizer
    from dplm2.tokenizer.tokens import encode_parts, parts_of, remove_others

    section, _, _, device = choose(options, "tokenizers")
    parts = parts_of(options.chains, "chains")
    single = options.out.suffix == ".parquet"
    if single and len(parts) != 1:
        raise ConfigError(
            f"--out: {options.out} is one file, but there are {len(parts)} files of chains; give a folder"
        )
    if len({part.name for part in parts}) != len(parts):
        raise ConfigError("the datasets have files of the same name; encode each dataset into a separate folder")
    settings = section.tokenization
    tokenizer = StructureTokenizer.from_pretrained(options.tokenizer, pick_device(device))
    record = RunRecord(
        "tokens encode",
        plain(settings),
        {"tokenizer": tokenizer.codes_fingerprint, **{str(part): sha256_of_file(part) for part in parts}},
        str(tokenizer.device),
    )
    if single:
        encode_parts([(parts[0], options.out)], tokenizer, settings)
    else:
        # Processes with the same tokenizer and settings share the work.
        decides = fingerprint([tokenizer.codes_fingerprint, deciding(settings)])
        with writing_into(options.out, "tokens encode", shared=decides):
            record.supersede(options.out)
            encode_parts([(part, options.out / part.name) for part in parts], tokenizer, settings)
            if all(path.is_dir() for path in options.chains):
                remove_others(options.out, [part.name for part in parts])
            record.write(options.out, parts=len(parts))
    print(f"tokens: {options.out}")


def run_decode(options: argparse.Namespace) -> None:
    """Run ``dplm2 tokens decode``."""
    from dplm2.core.artifacts import RunRecord
    from dplm2.core.devices import pick_device
    from dplm2.core.locks import writing_into
    from dplm2.settings.roles import plain
    from dplm2.structures.writing import write_structure
    from dplm2.tokenizer.model import StructureTokenizer
    from dplm2.tokenizer.tokens import decode_tokens, read_tokens

    section, _, _, device = choose(options, "tokenizers")
    batching = section.tokenization
    tokenizer = StructureTokenizer.from_pretrained(options.tokenizer, pick_device(device))
    table = read_tokens(options.tokens)
    record = RunRecord("tokens decode", plain(batching), {"tokenizer": tokenizer.fingerprint}, str(tokenizer.device))
    with writing_into(options.out, "tokens decode"):
        record.supersede(options.out)
        for name, sequence, decoded in decode_tokens(table, tokenizer, batching.token_budget, batching.precision):
            write_structure(options.out / f"{name}.{options.format}", sequence, decoded.backbone, decoded.plddt)
        record.write(options.out, chains=len(table))
    if not tokenizer.confidence_trained:
        print("the confidence head of this tokenizer is untrained: no confidence is written")
    print(f"structures: {options.out} ({len(table)} chains)")


def run_import_tokenizer(options: argparse.Namespace) -> None:
    """Run ``dplm2 import tokenizer``."""
    from dplm2.core.folders import downloaded_folder
    from dplm2.tokenizer.importing import import_tokenizer

    source, origin = downloaded_folder(options.source, "tokenizer")
    tokenizer = import_tokenizer(source, options.destination, options.model_config, **origin)
    print(
        f"tokenizer: {options.destination} ({tokenizer.codebook_size} structure tokens, fingerprint "
        f"{tokenizer.fingerprint}); its confidence head is untrained in the authors' code: no confidence is reported"
    )
