"""The documentation site: ``make docs``, or ``sphinx-build --fail-on-warning docs build/docs``."""

import argparse
import os
from collections.abc import Iterable, Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import dplm2
from dplm2.cli import build_parser
from dplm2.evaluation.metrics.metric import SHARE, Metric
from dplm2.evaluation.metrics.registry import METRICS
from dplm2.structures.rejects import CODES

project = "dplm2"
author = "The dplm2 developers"
copyright = author
release = version = dplm2.__version__

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
]
exclude_patterns: list[str] = []

myst_enable_extensions = ["html_image"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # a test runs the notebook

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
# Names in single backticks of docstrings are code, or objects of the package without a page of their own.
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = "dplm2"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "show_prev_next": True,
}
html_static_path = ["static"]
html_css_files = ["site.css"]


class CommandLine(SphinxDirective):
    """The help of every command, from the parsers."""

    def run(self) -> list[nodes.Node]:
        os.environ["COLUMNS"] = "110"  # of argparse's help, whatever the terminal
        return [self._section(name, parser) for name, parser in _commands(build_parser())]

    def _section(self, name: str, parser: argparse.ArgumentParser) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(name)], names=[name])
        section += nodes.title(text=name)
        help_text = nodes.literal_block(text=parser.format_help().rstrip())
        help_text["language"] = "text"
        section += help_text
        return section


class Metrics(SphinxDirective):
    """All declared metrics."""

    def run(self) -> list[nodes.Node]:
        rows = [(metric.name, f"{metric.title}{_unit(metric)}", metric.arrow, metric.source) for metric in METRICS]
        return self.parse_text_to_nodes(_table(("column", "meaning", "better", "source"), rows))


class RejectCodes(SphinxDirective):
    """Codes of rejected files and chains."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(_table(("code", "meaning"), CODES.items()))


def _unit(metric: Metric) -> str:
    share = f"share of {metric.of}" if metric.unit == SHARE and metric.of else metric.unit
    return f" ({share})" if share else ""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table whose first column is code."""
    cells = [" | ".join((f"`{first}`", *rest)) for first, *rest in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(heads), " | ".join("---" for _ in heads), *cells))


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Names and parsers of all commands without commands of their own."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser.prog, parser
    for group in groups:
        for inner in group.choices.values():
            yield from _commands(inner)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("command-line", CommandLine)
    app.add_directive("metrics", Metrics)
    app.add_directive("reject-codes", RejectCodes)
