"""Snakemake's report of a finished run: every kind of result with its caption; it opens in a browser."""

import html
import re

import pytest

from tests.report.browser import CHROMIUM, DRIVER, Browser

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def report(finished):
    path = finished.folder / "snakemake.html"
    done = finished.snakemake("--report", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_results_have_categories_captions_and_labels(report, finished):
    text = report.read_text()
    names = {path.name for path in (finished.folder / "results" / "report" / "figures").glob("*.svg")}
    names |= {path.name for path in (finished.folder / "results" / "report" / "tables").glob("*.csv")}
    assert {name for name in names if name not in text} == set()
    assert all(f'"{category}"' in text for category in ("Report", "Tables", "Figures", "Metrics"))
    # A caption with its wildcards replaced.
    assert "tiny, task co-generation: means over samples" in re.sub(r"\s+", " ", html.unescape(text))


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver on PATH")
def test_report_opens_in_a_browser(report):
    with Browser() as browser:
        browser.open(report)
        # Snakemake's page says that it uses a library's development form.
        assert [line for line in browser.messages() if "tailwindcss" not in line] == []
        shown = browser.run("return document.body.innerText")
    assert all(category in shown for category in ("Report", "Tables", "Figures", "Metrics"))
