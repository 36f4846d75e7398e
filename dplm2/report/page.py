"""The HTML page: one file with all scripts and figures that opens without network access."""

import base64
import hashlib
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib import resources

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from dplm2 import __version__
from dplm2.evaluation.metrics.registry import metric_of
from dplm2.report import tables
from dplm2.report.blocks import Card, CardRow, Cards, Chapter, Details, PageSection
from dplm2.report.designs import best, designs
from dplm2.report.drawing import Figure
from dplm2.report.labels import task_kind
from dplm2.report.learned import learned
from dplm2.report.logos import logos
from dplm2.report.published import compared, comparison, published_success
from dplm2.report.results import Results
from dplm2.report.scale import TINY, scales, warning
from dplm2.report.scenes import picked_samples
from dplm2.report.sections import metrics_table, preparation, quality, run_details, summary_table
from dplm2.settings.report import ReportSettings
from dplm2.viewer import html as viewer

TEMPLATES = "templates"
STYLE, TABLES = "style.css", "tables.js"
UNTITLED = "DPLM-2: results"


def build_page(results: Results, settings: ReportSettings) -> tuple[str, list[Figure]]:
    """The page, and the figures on it."""
    chapters = _chapters(results, settings)
    parts = [part for chapter in chapters for part in chapter.parts]
    shown = _with_unique_names([part for part in parts if not part.empty])
    kept = {part.name: part for part in shown}
    scripts = [_asset(TABLES), *viewer.scripts()]
    page = render(
        "page.html",
        # The page may run only these scripts and load nothing, so that data cannot inject anything.
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {' '.join(map(_hash, scripts))}",
        title=settings.title or UNTITLED,
        style=_asset(STYLE) + viewer.asset(viewer.STYLE),
        note=settings.note,
        warning=_first_sentence(warning(scales(results))),
        chapters=[
            Chapter(chapter.name, chapter.title, [kept[part.name] for part in chapter.parts if part.name in kept])
            for chapter in chapters
            if any(part.name in kept for part in chapter.parts)
        ],
        absent=[part.absent for part in parts if part.empty and part.absent],
        footer=f"Made by dplm2 {__version__} from {results.folder.name}/",
        scripts=scripts,
    )
    return page, [figure for part in shown for figure in part.figures]


def _chapters(results: Results, settings: ReportSettings) -> list[Chapter]:
    """What was asked for, how good it is, and where it comes from."""
    published = compared(results, settings.published_model)
    picked = picked_samples(results, settings.max_viewer_samples)
    designed = [best(results, picked), designs(results, settings), _logos(results)]
    judged = [
        learned(results),
        _summary(results),
        comparison(published, settings.published_model, settings.max_table_rows),
        *quality(results, settings, published_success(published), picked),
    ]
    prepared = [*preparation(results, settings, picked), run_details(results)]
    return [
        Chapter("asked", "Designs", designed),
        Chapter("quality", "How good they are", judged),
        Chapter("preparation", "Training and tokenizer", prepared),
    ]


def _first_sentence(text: str | None) -> tuple[str, str] | None:
    """A warning cut into what is shown at once, and the rest."""
    return None if text is None else (TINY, text.removeprefix(TINY).strip())


def render(template: str, **values: object) -> str:
    """A template filled in; whatever is not marked as safe in the template is escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("dplm2.report", TEMPLATES), viewer.loader()]),
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
        # Designs first: what the tokenizer and the network do on their own comes after them.
        headlines = sorted(
            tables.headlines(table), key=lambda each: task_kind(each.task) in ("reconstruction", "likelihood")
        )
        cards = Cards([_card(headline) for headline in headlines])
        everything = Details("All metrics, with intervals", [summary_table(results)])
        part.body = [cards, everything, Details("What the metrics mean", [metrics_table(results)])]
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


def _logos(results: Results) -> PageSection:
    part = PageSection("logos", "Sequences of each problem")
    part.figures = list(logos(results))
    return part
