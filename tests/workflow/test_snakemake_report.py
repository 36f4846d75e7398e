"""Snakemake's report of a finished run: every kind of result with its caption; it opens in a browser."""

import html
import re

import pytest

from tests.report.test_report_browser import CHROMIUM, visit

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_report_opens_in_a_browser(report, tmp_path):
    document, console = visit(report, tmp_path)
    assert [line for line in console if ":INFO:" not in line] == []
    shown = re.sub(r"<script.*?</script>", "", document, flags=re.DOTALL)
    assert all(f">{category}<" in shown for category in ("Report", "Tables", "Figures", "Metrics"))
