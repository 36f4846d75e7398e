"""The HTML page: one file with all scripts and figures that opens without network access."""

import base64
import hashlib
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from dplm2 import __version__
from dplm2.evaluation.metrics.registry import metric_of
from dplm2.report import tables
from dplm2.report.blocks import Card, CardRow, Cards, Details, PageSection, Viewer
from dplm2.report.designs import designs
from dplm2.report.drawing import Figure
from dplm2.report.learned import learned
from dplm2.report.published import compared, comparison, published_success
from dplm2.report.results import Results
from dplm2.report.scale import scales, warning
from dplm2.report.sections import metrics_table, run_details, sections, summary_table
from dplm2.report.viewer import chosen_samples
from dplm2.settings.report import ReportSettings

TEMPLATES = "templates"
STYLE, SCRIPTS = "style.css", ("tables.js", "viewer.js")


def build_page(results: Results, settings: ReportSettings) -> tuple[str, list[Figure]]:
    """The page, and the figures on it."""
    published = compared(results, settings.published_model)
    parts = [
        learned(results),
        designs(results, settings),
        _summary(results),
        comparison(published, settings.published_model, settings.max_table_rows),
        _viewer(results, settings),
        *sections(results, settings, published_success(published)),
        run_details(results),
    ]
    shown = _with_unique_names([part for part in parts if not part.empty])
    scripts = [_asset(name) for name in SCRIPTS]
    page = render(
        "page.html",
        # The page may run only these scripts and load nothing, so that data cannot inject anything.
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {' '.join(map(_hash, scripts))}",
        title=settings.title,
        style=_asset(STYLE),
        notes=[text for text in (settings.note, warning(scales(results))) if text],
        parts=shown,
        absent=[part.absent for part in parts if part.empty and part.absent],
        footer=f"Made by dplm2 {__version__} from {results.folder.name}/",
        scripts=scripts,
    )
    return page, [figure for part in shown for figure in part.figures]


def render(template: str, **values: object) -> str:
    """A template filled in; whatever is not marked as safe in the template is escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dplm2.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # JSON has no NaN: a value that is not finite is an error here, not in the reader's browser.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _asset(name: str) -> str:
    return (resources.files("dplm2.report") / TEMPLATES / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _with_unique_names(parts: list[PageSection]) -> list[PageSection]:
    """Figures whose names differ only in characters not allowed in file names must not share a file."""
    seen: Counter[str] = Counter()

    def renamed(figure: Figure) -> Figure:
        seen[figure.name] += 1
        count = seen[figure.name]
        return figure if count == 1 else replace(figure, name=f"{figure.name}-{count}")

    return [replace(part, figures=[renamed(figure) for figure in part.figures]) for part in parts]


def _summary(results: Results) -> PageSection:
    part = PageSection("summary", "Summary", absent="nothing was evaluated: no summary.csv in this results folder")
    table = tables.summary(results)
    if len(table):
        cards = Cards([_card(headline) for headline in tables.headlines(table)])
        part.body = [cards, summary_table(results), Details("What the metrics mean", metrics_table(results))]
    return part


def _card(headline: tables.Headline) -> Card:
    rows = []
    for _, row in headline.rows.iterrows():
        metric = metric_of(row["metric"])
        title = f"{metric.title} {metric.arrow}".rstrip()
        rows.append(CardRow(title, tables.shown(row["value"]) + metric.suffix, tables.interval(row)))
    folded = f", folded by {headline.backend}" if headline.backend else ""
    counts = list(dict.fromkeys(headline.rows["n"]))
    return Card(headline.task, headline.subject, rows, f"n = {', '.join(counts)}{folded}")


def _viewer(results: Results, settings: ReportSettings) -> PageSection:
    part = PageSection("viewer-section", "Structures in 3-D")
    samples = chosen_samples(results, settings.max_viewer_samples) if settings.max_viewer_samples else []
    if not samples:
        part.absent = "no generated structures were found for the 3-D viewer" if settings.max_viewer_samples else ""
        return part
    part.about = (
        "C\u03b1 traces, superimposed. Grey: the generated or given structure; coloured: the structure that it is "
        "compared with. Where the two coincide, sequence and structure agree. Drag to rotate; pinch, or click and use "
        "the wheel, to zoom."
    )
    part.body = [Viewer(samples)]
    return part
