"""Command line of the report."""

import argparse
from pathlib import Path

from dplm2.settings.command_line import CONFIG_HELP

EXAMPLE = """\
examples:
  dplm2 report --results results --out results/report
  dplm2 report --results results --out results/report --config config.yaml --print
Open DIR/report.html in any browser; it needs no network and no other file. Tables are written as CSV to DIR/tables,
figures as SVG to DIR/figures. The page lists the stages that were not run.
"""


def add_report(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 report``."""
    parser.description = "Collect the results of a run in one HTML page, CSV tables and SVG figures."
    parser.epilog = EXAMPLE
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="the results folder of a run")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for report.html, tables/, figures/"
    )
    parser.add_argument("--config", nargs="+", action="extend", metavar="SOURCE", default=[], help=CONFIG_HELP)
    parser.add_argument(
        "--print", action="store_true", help="print the headline metrics; an up-to-date report in --out is not rebuilt"
    )
    parser.add_argument(
        "--only",
        metavar="JSON",
        help='names to report, for example \'{"models": ["mine"]}\'; kinds: datasets, tokenizers, models, '
        "generation (default: everything found)",
    )
    parser.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> None:
    """Run ``dplm2 report``."""
    from dplm2.core.artifacts import parse_json
    from dplm2.core.errors import ConfigError
    from dplm2.core.locks import writing_into
    from dplm2.report.writing import as_terminal_text, is_current, write_report
    from dplm2.settings import load
    from dplm2.settings.report import ReportSettings
    from dplm2.settings.roles import plain

    settings = load(options.config).report if options.config else None
    only = parse_json(options.only, "--only") if options.only else None
    if only is not None and not isinstance(only, dict):
        raise ConfigError('--only: must be a JSON object, such as {"models": ["mine"]}')
    if not (options.print and is_current(options.results, options.out, None if settings is None else plain(settings))):
        with writing_into(options.out, "report"):
            write_report(options.results, options.out, settings or ReportSettings(), only)
    if options.print:
        print(as_terminal_text(options.out))
    print(f"report: {options.out / 'report.html'}")
