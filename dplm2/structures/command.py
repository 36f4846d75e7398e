"""Command line of this stage: ``dplm2 structures clean | select | fetch``."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.settings.command_line import Chosen, add_settings, choose, named_sections
from dplm2.structures.rejects import CODES
from dplm2.structures.targets import FetchSource, FetchTarget
from dplm2.structures.workers import start_server

CLEAN = """\
Read structure files, clean their protein chains, and write them to Parquet.

  dplm2 structures clean models/ extra.cif.gz --out results/structures/mine
      a whole dataset: all parts, the selection of chains, and the list of rejects

  dplm2 structures clean --manifest part-00003.tsv --out results/structures/mine
      one part of a dataset, as in the workflow; 'dplm2 structures select' then processes all parts together

Formats: PDB, mmCIF, BinaryCIF (plain or gzipped, recognised by content), Foldcomp files and databases, .tar, .tar.gz.
Rejected files and chains are listed in rejected.parquet, one row each, with the reason.
"""
SELECT = """\
Process all parts of a dataset together: duplicates, outliers in size, clusters, splits.

  dplm2 structures select results/structures/mine --config config.yaml --name mine

Writes selection.parquet (the selected chains with cluster and split), rejected.parquet and run.json into the folder.
"""
FETCH = """\
Download structures by PDB id, UniProt accession (from AlphaFold DB) or address, one per line.

  dplm2 structures fetch list.txt --out downloads/

  dplm2 structures fetch benchmarks --out benchmark      # everything that config/benchmark.yaml reads

A chain may follow an id (1ubq_A): its entry is downloaded. AF-P12345-F1-model_v4 is that version of a model; without
one, the current version is. Existing files are not downloaded again. downloads.tsv records the address, size and
SHA-256 of each file; failed downloads are listed in rejected.parquet. Exit status 1 if any download failed
(--set fetch.allow_missing=true: 0). More keys: datasets.<name>.fetch in config/README.md.

Redirects are followed only to sites of the list and of the archives (PDB, AlphaFold DB), never to private addresses
that are not in the list. A line such as https://files.example.org, an address without a path, allows another site.
"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the subcommands of ``dplm2 structures``."""
    clean = _command(commands, "clean", "clean the chains of structure files", CLEAN, run_clean)
    clean.epilog = "Codes in rejected.parquet:\n" + "\n".join(f"  {code:<19} {text}" for code, text in CODES.items())
    clean.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="files, folders or patterns (default: the configuration's)"
    )
    clean.add_argument("--manifest", type=Path, help="clean only the files of this manifest (one part)")
    clean.add_argument("--out", type=Path, required=True, help="output folder of the dataset")
    clean.add_argument("--workers", type=int, help="processes (default: one per core)")
    add_settings(clean, "datasets", device=False)

    select = _command(commands, "select", "find duplicates, clusters and splits over all parts", SELECT, run_select)
    select.add_argument("folder", type=Path, metavar="DIR", help="folder of the dataset's parts")
    select.add_argument(
        "--shards", type=int, help="number of parts; further ones, of an earlier run, are ignored (default: all)"
    )
    select.add_argument("--workers", type=int, help="cores for MMseqs2 (default: all)")
    add_settings(select, "datasets", device=False)

    fetch = _command(commands, "fetch", "download structures", FETCH, run_fetch)
    contents = "text file: PDB ids, UniProt accessions or addresses; or the word benchmarks"
    fetch.add_argument("list", type=Path, metavar="LIST", help=contents)
    fetch.add_argument("--out", type=Path, required=True, help="output folder")
    fetch.add_argument(
        "--manifest",
        type=Path,
        help="write a manifest of all downloads for 'structures clean --manifest', instead of rejected.parquet",
    )
    add_settings(fetch, "datasets", device=False)


def _command(commands: argparse._SubParsersAction, name: str, help: str, text: str, run) -> argparse.ArgumentParser:  # noqa: A002, ANN001
    kind = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=help, description=text, formatter_class=kind)
    parser.set_defaults(run=run)
    return parser


def _settings(options: argparse.Namespace, folder: Path) -> Chosen:
    """The dataset's settings, its name (by default that of the folder) and the seed."""
    name = folder.resolve().name
    if options.name is None and name in named_sections(options, "datasets"):
        options.name = name
    chosen = choose(options, "datasets")
    return chosen._replace(name=chosen.name or options.name or name)


def run_clean(options: argparse.Namespace) -> int:
    """Clean one part, or a whole dataset."""
    if options.workers != 0:
        # The workers import while this process does.
        start_server()
    from dplm2.core.artifacts import RUN_FILE, fingerprint
    from dplm2.core.locks import writing_into
    from dplm2.settings.roles import deciding
    from dplm2.structures.manifest import list_files
    from dplm2.structures.shards import part_paths
    from dplm2.structures.store import SELECTION_FILE

    if options.inputs and options.manifest or not (options.inputs or options.manifest or options.config):
        raise ConfigError("structures clean: give files or folders, or --manifest, or a --config that names files")
    settings, name, seed, _ = _settings(options, options.out)
    if options.manifest:
        chains, _ = part_paths(options.out, options.manifest)
        # Jobs of other shards write into the same folder.
        with writing_into(options.out, "structures clean", shared=fingerprint([name, deciding(settings, "clean")])):
            counts = _clean_shard(options.manifest, settings, name, options)
        print(f"{chains}: {_described(counts)}")
        return 0
    if not options.inputs and settings.files is None:
        raise ConfigError(
            f"datasets.{name} is downloaded: use 'dplm2 structures fetch' first, then give the folder of files (for "
            "'hub': --manifest) here"
        )
    with writing_into(options.out, "structures clean"):
        manifests = list_files(options.inputs or settings.files, options.out / "shards", settings.shards).write()
        # Results derived from an earlier run's parts are outdated.
        for former in (SELECTION_FILE, RUN_FILE):
            (options.out / former).unlink(missing_ok=True)
        _remove_parts_from(options.out, 0)
        for manifest in manifests:
            _clean_shard(manifest, settings, name, options)
        return _select(options, options.out, settings, name, seed)


def _clean_shard(manifest: Path, settings, name: str, options: argparse.Namespace):  # noqa: ANN001, ANN202
    from dplm2.structures.manifest import read_manifest, write_hashes
    from dplm2.structures.shards import clean_shard, part_paths
    from dplm2.structures.tokenized import clean_tables

    files = read_manifest(manifest)
    paths = part_paths(options.out, manifest)
    if settings.hub is not None:
        counts = clean_tables(files, settings, name, *paths)
    else:
        counts = clean_shard(files, settings, name, *paths, options.workers)
    read = (dataclasses.replace(file, sha256=counts.hashes.get(file.path, "")) for file in files)
    write_hashes(manifest, read)
    return counts


def _described(counts) -> str:  # noqa: ANN001
    rejects = ", ".join(f"{number} {code}" for code, number in sorted(counts.rejects.items())) or "none"
    return f"{counts.chains} chains from {counts.files} files; rejected: {rejects}"


def run_select(options: argparse.Namespace) -> int:
    """Select among all chains of a dataset."""
    from dplm2.core.locks import writing_into

    settings, name, seed, _ = _settings(options, options.folder)
    if not options.folder.is_dir():
        raise DPLM2Error(f"{options.folder}: no such folder")
    with writing_into(options.folder, "structures select"):
        return _select(options, options.folder, settings, name, seed, options.shards)


def _remove_parts_from(folder: Path, shards: int) -> None:
    for path in [*folder.glob("part-*.parquet"), *(folder / "shards").glob("rejected-*.parquet")]:
        number = path.stem.rsplit("-", 1)[-1]
        if number.isdecimal() and int(number) >= shards:
            path.unlink()


def _select(
    options: argparse.Namespace,
    folder: Path,
    settings,  # noqa: ANN001
    name: str,
    seed: int,
    shards: int | None = None,
) -> int:
    from dplm2.core.artifacts import RunRecord
    from dplm2.settings.roles import plain
    from dplm2.structures.selection import select_chains
    from dplm2.structures.workers import usable_cores

    record = RunRecord("structures select", {"dataset": name, "seed": seed, **plain(settings)}, {})
    counts = select_chains(folder, settings, seed, record, options.workers or usable_cores(), shards)
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "validation", "test") if split in counts)
    print(f"{folder}: {counts['chains']} chains ({splits}); {counts['rejected']} rejected, see rejected.parquet")
    if counts["chains"] and not counts.get("train") and splits:
        print("note: no chain is left for training", file=sys.stderr)
    return 0


def run_fetch(options: argparse.Namespace) -> int:
    """Download the structures of a list."""
    from dplm2.structures.benchmarks import NAME, benchmark_targets
    from dplm2.structures.targets import read_sites, read_targets

    given = {"list": str(options.list)} | ({} if options.config else {"allow_missing": False})
    if options.config and (tables := choose(options, "datasets").section).hub is not None:
        return _fetch_tables(tables.hub, options.list, options.manifest)
    settings = choose(options, "datasets", fetch=given).section.fetch
    source = FetchSource(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(FetchSource)})
    if str(options.list) == NAME and not options.list.is_file():
        if options.manifest:
            raise ConfigError(f"--manifest: not for {NAME}, which are several folders; fetch each list by itself")
        parts = benchmark_targets(source, Path.cwd())
        missing = sum(_fetch_into(options.out / name, targets, source, []) for name, targets in parts.items())
        return 1 if missing and not settings.allow_missing else 0
    # A shard of a short list may be empty.
    targets = read_targets(options.list, source, may_be_empty=options.manifest is not None)
    missing = _fetch_into(options.out, targets, source, read_sites(options.list), options.manifest)
    return 1 if missing and not settings.allow_missing else 0


def _fetch_tables(source, part: Path, manifest: Path | None) -> int:  # noqa: ANN001
    """Download the tables of ``datasets.<name>.hub``; the manifest of a part names those of its shard."""
    from dplm2.structures.manifest import write_manifest
    from dplm2.structures.tokenized import download_tables, source_files

    if manifest is None:
        raise ConfigError("structures fetch: a dataset from the hub is fetched by the workflow (--manifest is missing)")
    words = part.read_text(encoding="utf-8").split() if part.is_file() else []
    if len(words) != 3 or not all(word.isdecimal() for word in words[1:]):
        raise ConfigError(f"{part}: not a part of a dataset from the hub, as the workflow writes it")
    shard, shards = map(int, words[1:])
    tables = download_tables(source)[shard::shards]
    write_manifest(manifest, source_files(tables))
    print(f"{manifest}: {len(tables)} tables of {source.repository}")
    return 0


def _fetch_into(
    folder: Path,
    targets: Sequence[FetchTarget],
    source: FetchSource,
    sites: Sequence[str],
    manifest: Path | None = None,
) -> int:
    """Download into a folder; returns the number of failed downloads."""
    from dplm2.structures.fetching import fetch, write_rejected
    from dplm2.structures.manifest import write_manifest

    outcome = fetch(targets, folder, source, sites)
    if manifest:
        write_manifest(manifest, outcome.files)
    else:
        write_rejected(folder, outcome)
    missing = len(outcome.rejects)
    print(f"{folder}: {outcome.fetched} downloaded, {outcome.present} already present, {missing} failed")
    for reject in outcome.rejects[:5]:
        print(f"  {reject.chain}: {reject.reason} ({reject.source_file})", file=sys.stderr)
    return missing
