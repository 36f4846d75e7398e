"""The HTML page: one file that opens without network, scripts and figures inside it."""

import base64
import hashlib
from collections import Counter
from dataclasses import replace
from importlib import resources
from string import Template

from dplm2 import __version__
from dplm2.report import tables
from dplm2.report.comparison import compared, comparison, published_success
from dplm2.report.drawing import Figure
from dplm2.report.labels import quantity
from dplm2.report.markup import Html, element, escape, join, json_block
from dplm2.report.results import Results
from dplm2.report.scale import scales, warning
from dplm2.report.sections import Section, run_facts, sections, summary_table
from dplm2.report.viewer import chosen_samples
from dplm2.settings.report import ReportSettings

ASSETS = resources.files("dplm2") / "assets" / "report"
SCRIPTS = ("tables.js", "viewer.js")


def build_page(results: Results, settings: ReportSettings) -> tuple[str, list[Figure]]:
    """The page, and the figures on it."""
    published = compared(results, settings.published_model)
    parts = [
        _summary(results),
        comparison(published, settings.published_model, settings.max_table_rows),
        _viewer(results, settings),
        *sections(results, settings, published_success(published)),
        run_facts(results),
    ]
    shown = _with_unique_names([part for part in parts if not part.empty])
    absent = [part.absent for part in parts if part.empty and part.absent]
    scripts = [_asset(name) for name in SCRIPTS]
    # The page may run these scripts and no others, and may load nothing: data cannot smuggle anything in.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {' '.join(map(_hash, scripts))}"
    page = Template(_asset("template.html")).substitute(
        policy=policy,
        title=escape(settings.title),
        style=_asset("style.css"),
        notes=_notes(results, settings),
        contents=join(element("li", element("a", part.title, href=f"#{part.name}")) for part in shown),
        sections=join(_written(part, number) for number, part in enumerate(shown)),
        absent=_absent(absent),
        footer=escape(f"Made by dplm2 {__version__} from {results.folder.name}/"),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )
    return page, [figure for part in shown for figure in part.figures]


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _with_unique_names(parts: list[Section]) -> list[Section]:
    """Two figures whose names differ only in what a file name cannot hold must not become one file."""
    seen: Counter[str] = Counter()

    def renamed(figure: Figure) -> Figure:
        seen[figure.name] += 1
        count = seen[figure.name]
        return figure if count == 1 else replace(figure, name=f"{figure.name}-{count}")

    return [replace(part, figures=[renamed(figure) for figure in part.figures]) for part in parts]


def _notes(results: Results, settings: ReportSettings) -> Html:
    texts = [text for text in (settings.note, warning(scales(results))) if text]
    return join(element("p", text, class_="remark", role="note") for text in texts)


def _summary(results: Results) -> Section:
    part = Section(
        "summary", "Summary", absent="nothing was evaluated (no summary.csv), so there is no table of metrics"
    )
    table = tables.summary(results)
    if len(table):
        cards = join(_card(headline) for headline in tables.headlines(table))
        part.body = [element("div", cards, class_="cards"), summary_table(results)]
    return part


def _card(headline: tables.Headline) -> Html:
    rows = []
    for _, row in headline.rows.iterrows():
        what = quantity(row["metric"])
        unit = f" {what.unit}" if what.unit in ("\u00c5", "nats") else ""
        between = tables.interval(row)
        rows.append(
            element(
                "div",
                element("dt", what.name),
                element("dd", tables.shown(row["value"]) + unit, element("small", between) if between else ""),
            )
        )
    folded = f", folded by {headline.backend}" if headline.backend else ""
    counts = list(dict.fromkeys(headline.rows["n"]))
    below = f"n = {', '.join(counts)}{folded}"
    return element(
        "article",
        element("h3", headline.task),
        element("p", headline.subject, class_="subject"),
        element("dl", *rows),
        element("p", below, class_="note"),
        class_="card",
    )


def _viewer(results: Results, settings: ReportSettings) -> Section:
    part = Section("viewer-section", "Structures in 3-D")
    samples = chosen_samples(results, settings.max_viewer_samples) if settings.max_viewer_samples else []
    if not samples:
        part.absent = "no generated structures were found for the 3-D viewer" if settings.max_viewer_samples else ""
        return part
    part.about = (
        "C\u03b1 traces, laid over one another. Grey: what was generated or given; coloured: what it is compared with. "
        "Where the two run together, sequence and structure agree. Drag to turn; pinch, or click and use the wheel, "
        "to zoom."
    )
    part.body = [Html(_asset("viewer.html")), json_block("viewer-data", samples)]
    return part


def _written(part: Section, number: int) -> Html:
    drawn = [
        element(
            "figure",
            element("h3", figure.title),
            Html(figure.inline(f"s{number}f{index}-")),
            element("figcaption", figure.caption),
        )
        for index, figure in enumerate(part.figures)
    ]
    return element(
        "section",
        element("h2", part.title),
        element("p", part.about, class_="about") if part.about else "",
        element("div", *drawn, class_="figures") if drawn else "",
        *part.body,
        id=part.name,
    )


def _absent(absent: list[str]) -> Html:
    if not absent:
        return Html()
    return element(
        "section",
        element("h2", "Not in this report"),
        element("ul", *(element("li", text[:1].upper() + text[1:] + ".") for text in absent)),
        id="absent",
    )
