"""Writing the report's folder: the page, the tables, the figures, and the record of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dplm2.core.artifacts import RUN_FILE, RunRecord, fingerprint, read_json_object, write_text
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.tables import write_table
from dplm2.report import tables
from dplm2.report.drawing import Figure
from dplm2.report.page import build_page
from dplm2.report.published import compared
from dplm2.report.results import REQUIRED_COLUMNS, input_files, read_results
from dplm2.report.scale import scales, warning
from dplm2.settings.report import ReportSettings
from dplm2.settings.roles import plain

PAGE = "report.html"
SUMMARY = Path("tables") / "summary.csv"
INTERVALS = Path("tables") / "summary_intervals.csv"


def write_report(
    folder: Path, out: Path, settings: ReportSettings, only: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Read a results folder and write its report.

    Parameters
    ----------
    folder
        The results of a run.
    out
        Folder for ``report.html``, ``tables/`` (each as CSV and Parquet, those that a paper may print as LaTeX too;
        ``summary.csv`` has seven columns, ``summary_intervals.csv`` the same rows with failures, medians and
        intervals), ``figures/*.svg`` and ``run.json``.
    settings
        The section ``report``.
    only
        Names of datasets, tokenizers, models and tasks (``generation``) to report; None: everything found.

    Raises
    ------
    DPLM2Error
        If there is nothing to report, or a file cannot be read.
    """
    record = RunRecord("report", plain(settings), {"results": _state_of(folder)})
    results = read_results(folder, only)
    page, figures = build_page(results, settings)
    full_summary = tables.summary(results)
    contract = full_summary[list(REQUIRED_COLUMNS)]
    frames = {
        SUMMARY.stem: contract,
        INTERVALS.stem: full_summary,
        **tables.further_tables(results, settings.published_model),
    }
    if len(published := compared(results, settings.published_model)):
        frames["published"] = published
    written = [*_write_tables(out, frames), *_write_figures(out, figures)]
    _remove_former(out, written)
    write_text(out / PAGE, page)
    record.write(out, files=[PAGE, *written], warning=warning(scales(results)))


def _write_tables(out: Path, frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    for name, frame in frames.items():
        paths = write_table(out / "tables", name, frame, latex=not name.startswith(tables.ROWS_WITHOUT_END))
        yield from (path.relative_to(out).as_posix() for path in paths)


def _write_figures(out: Path, figures: list[Figure]) -> Iterator[str]:
    for figure in figures:
        path = Path("figures") / f"{figure.name}.svg"
        write_text(out / path, figure.svg)
        yield path.as_posix()


def _remove_former(out: Path, written: list[str]) -> None:
    """Remove files of an earlier report that are not part of this one, and nothing else."""
    if not (out / RUN_FILE).is_file():
        return
    former = {name for name in _files_noted(out) if Path(name).parent.name in ("tables", "figures")}
    for name in former - set(written):
        if not Path(name).is_absolute() and ".." not in Path(name).parts:
            (out / name).unlink(missing_ok=True)


def _files_noted(out: Path) -> list[str]:
    """Files listed in the record of an earlier report; none if it is damaged."""
    try:
        noted = read_json_object(out / RUN_FILE).get("files")
    except DPLM2Error:
        return []
    return [name for name in noted if isinstance(name, str)] if isinstance(noted, list) else []


def _state_of(folder: Path) -> str:
    """A fingerprint of the names, sizes and times of files."""
    states = [(path.relative_to(folder).as_posix(), path.stat()) for path in input_files(folder)]
    return fingerprint([(name, state.st_size, state.st_mtime_ns) for name, state in states])


def is_current(folder: Path, out: Path, given: Mapping | None) -> bool:
    """Whether ``out`` contains a report of these results, with these settings if any are given."""
    if not all((out / name).is_file() for name in (PAGE, SUMMARY, INTERVALS, RUN_FILE)):
        return False
    try:
        record = read_json_object(out / RUN_FILE)
    except DPLM2Error:
        return False
    same_settings = given is None or record.get("settings") == dict(given)
    return same_settings and (record.get("inputs") or {}) == {"results": _state_of(folder)}


def as_terminal_text(out: Path) -> str:
    """The headline metrics of a finished report and the remarks about them, for a terminal."""
    table = pd.read_csv(out / INTERVALS, dtype=str, keep_default_na=False)
    record = read_json_object(out / RUN_FILE)
    remarks = [text for text in (record.get("settings", {}).get("note"), record.get("warning")) if text]
    body = tables.as_text(table) if len(table) else "nothing was evaluated"
    return "\n\n".join([body, *(_wrapped(text) for text in remarks), ""]).rstrip() + "\n"


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(" ".join(text.split()), width=100)
