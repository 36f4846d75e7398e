"""The ranked designs on the page: first, complete, and with files that are in the page itself."""

import base64
import re

import pandas as pd
import pytest

from dplm2.report.designs import designs
from dplm2.report.page import build_page
from dplm2.report.results import read_results
from dplm2.settings.report import ReportSettings
from tests.report.tree import make_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("designs") / "results", stages=("designs",))


@pytest.fixture(scope="module")
def html(folder):
    return build_page(read_results(folder), ReportSettings())[0]


def downloads(html: str) -> dict[str, bytes]:
    found = re.findall(r'download="([^"]*)" href="data:[a-z/-]+;base64,([^"]*)"', html)
    return {name: base64.b64decode(content) for name, content in found}


def test_designs_are_the_first_sections(html):
    assert re.findall(r'<section id="([\w-]+)">', html)[:2] == ["best", "designs"]


def test_the_best_are_told_in_words_first(html):
    assert "co-generation: 12 proteins, 7 within the thresholds." in html
    (body,) = re.findall(r'<table id="best-designs">.*?<tbody>(.*?)</tbody>', html, flags=re.DOTALL)
    rows = body.split("<tr>")[1:]
    assert [re.search(r"<td>(co-generation-\d+)<small>", row)[1] for row in rows] == [
        f"co-generation-{i}" for i in range(4)
    ]
    assert "<span>scTM 0.85</span>" in rows[1] and "<span>scRMSD 2 \u00c5</span>" in rows[1]


def test_rows_are_those_of_the_table_in_its_order(html, folder):
    table = pd.read_csv(folder / "designs" / "demo" / "co-generation" / "designs.csv")
    (body,) = re.findall(r'<table id="designs-demo-co-generation".*?<tbody>(.*?)</tbody>', html, flags=re.DOTALL)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL) for row in body.split("<tr>")[1:]]
    assert [row[1] for row in rows] == table["id"].tolist()
    assert [float(row[5]) for row in rows] == pytest.approx(table["score"], abs=5e-3)
    assert [row[4] == "yes" for row in rows] == table["passes"].tolist()
    heads = re.findall(r"<th[^>]*><button type=\"button\">(.*?)</button>", html.split('id="designs-demo')[1])
    assert heads[:6] == ["rank", "id", "problem", "length", "passes", "score"]
    assert "scTM ↑" in heads and "scRMSD ↓" in heads and heads[8] == "structures"


def test_downloads_are_the_files_themselves(html, folder):
    place = folder / "designs" / "demo" / "co-generation"
    expected = {f"demo-co-generation-{name}": (place / name).read_bytes() for name in ("designs.csv", "designs.fasta")}
    expected |= {path.name: path.read_bytes() for path in (place / "best").iterdir()}
    assert downloads(html) == expected
    assert len(expected) == 2 + 3 + 2


def test_nothing_outside_of_the_folder_is_put_into_the_page(folder, html):
    (folder / "designs" / "demo" / "x").mkdir(exist_ok=True)
    (folder / "designs" / "demo" / "x" / "5.pdb").write_text("not of the best")
    assert base64.b64encode(b"not of the best").decode() not in build_page(read_results(folder), ReportSettings())[0]


def test_limits_of_rows_and_downloads(folder):
    html = build_page(read_results(folder), ReportSettings.make(max_table_rows=4, max_downloads=1))[0]
    assert "4 of 12 designs" in html
    assert {name for name in downloads(html) if name.endswith(".pdb")} == {"001_0.pdb", "001_0_folded.pdb"}
    none = build_page(read_results(folder), ReportSettings.make(max_downloads=0))[0]
    assert not {name for name in downloads(none) if name.endswith(".pdb")}


def test_only_the_named_tasks(folder):
    kept = read_results(folder, {"models": ["demo"], "generation": ["co-generation"]})
    assert not designs(kept, ReportSettings()).empty
    other = read_results(make_results(folder.parent / "other"), {"models": ["demo"], "generation": ["folding"]})
    assert designs(other, ReportSettings()).empty
