"""The structures that the paper's benchmarks need, as downloads: test sets, and the references of motif problems."""

from pathlib import Path

from dplm2.core.errors import ConfigError
from dplm2.core.text import read_text
from dplm2.settings.loading import parse_value
from dplm2.structures.targets import FetchSource, FetchTarget, read_targets, target_of

NAME = "benchmarks"  # in place of a list
TEST_SETS, MOTIFS = Path("config", "test_sets"), Path("config", "motifs")


def benchmark_targets(source: FetchSource, checkout: Path) -> dict[str, list[FetchTarget]]:
    """The downloads of each folder that ``config/benchmark.yaml`` reads.

    Parameters
    ----------
    source
        Addresses of structures.
    checkout
        Folder of the repository, which contains the lists and the motif problems.

    Raises
    ------
    ConfigError
        If they are not there.
    """
    lists, problems = sorted((checkout / TEST_SETS).glob("*.txt")), sorted((checkout / MOTIFS).glob("*.yaml"))
    if not lists or not problems:
        raise ConfigError(
            f"structures fetch {NAME}: no lists in {checkout / TEST_SETS} and {checkout / MOTIFS}; "
            "run it in a checkout of the repository"
        )
    entries = {Path(parse_value(read_text(path), str(path))["reference"]).stem for path in problems}
    targets = {path.stem: read_targets(path, source) for path in lists}
    return targets | {MOTIFS.name: [target_of(entry, source) for entry in sorted(entries)]}
