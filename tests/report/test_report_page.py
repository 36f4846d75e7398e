"""The page: self-contained, consistent with the data, and safe for any data."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dplm2.report import figures
from dplm2.report.blocks import Table, Viewer
from dplm2.report.evaluations import likelihood
from dplm2.report.page import build_page, render
from dplm2.report.results import Curve, read_results
from dplm2.report.scenes import picked_samples
from dplm2.report.writing import write_report
from dplm2.settings import load
from dplm2.settings.report import ReportSettings
from tests.report.tree import STAGES, TASKS, make_results

HOSTILE = "<script>alert(1)</script>\"'&$x^2$</script><!--"
VOID = {"meta", "input", "br", "hr", "img", "link"}


def settings(**replaced) -> ReportSettings:
    return ReportSettings.make(**replaced)


class Page(HTMLParser):
    """Elements, texts, and whether all elements are closed correctly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.open, self.ids, self.texts, self.crossed = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def html(report_folder):
    return (report_folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_page_is_well_formed_and_ids_are_unique(page):
    assert not page.crossed
    assert not page.open
    assert len(page.ids) == len(set(page.ids))


def test_page_is_self_contained(html, page):
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        # A download is in its address.
        if name in ("src", "href", "xlink:href", "action", "data")
        and not ("download" in attributes and value.startswith("data:"))
    ]
    assert links
    # The tables lie beside the page; all else is in it.
    assert all(link.startswith(("#", "tables/")) for link in links)
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"url\((?!#)", own)
    assert "@import" not in own


def test_links_to_tables_lead_to_files(page, report_folder):
    linked = {attributes["href"] for tag, attributes in page.elements if tag == "a"} - {None}
    tables = {link for link in linked if link.startswith("tables/")}
    assert {"tables/summary_intervals.csv", "tables/rejected.csv", "tables/samples-folding.csv"} <= tables
    for table in tables:
        assert len(pd.read_csv(report_folder / table)) > 0, table


def test_internal_links_resolve(html, page):
    wanted = {
        attributes[name][1:]
        for _, attributes in page.elements
        for name in ("href", "xlink:href")
        if name in attributes and "download" not in attributes and attributes[name].startswith("#")
    } | set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(page.ids)


def test_every_figure_has_a_caption(html):
    found = re.findall(r"<figure[^>]*>.*?<figcaption>(.*?)</figcaption></figure>", html, flags=re.DOTALL)
    assert len(found) == html.count("<figure") >= 15
    assert all(len(caption.split()) >= 5 for caption in found)


def test_hostile_names_are_escaped(tmp_path):
    folder = make_results(
        tmp_path / "results", model=HOSTILE, stages=("structures", "evaluation", "samples"), tasks=TASKS[:3]
    )
    rejected = folder / "structures" / "demo" / "rejected.parquet"
    broken = pq.read_table(rejected).to_pylist()
    pq.write_table(type(pq.read_table(rejected)).from_pylist([{**row, "code": HOSTILE} for row in broken]), rejected)
    html, _ = build_page(read_results(folder), settings(title=HOSTILE, note=HOSTILE))
    page = Page(html)
    kinds = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert kinds == ["application/json", None, None, None]
    assert "<script>alert" not in html
    assert not page.crossed
    assert HOSTILE in "".join(page.texts)


def test_embedded_data_cannot_close_the_script_element():
    html = render("structures.html", block=Viewer([HOSTILE]))
    inner = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, flags=re.DOTALL)[1]
    assert "<" not in inner
    assert json.loads(inner) == [HOSTILE]


@pytest.mark.parametrize("stage", STAGES)
def test_page_of_one_stage_lists_the_stages_not_run(tmp_path, stage):
    folder = make_results(tmp_path / "results", stages=(stage,), tasks=("folding",))
    html, _ = build_page(read_results(folder), settings(max_training_figures=1))
    page = Page(html)
    assert not page.crossed
    assert any(text.startswith("Not in this report") for text in page.texts)
    assert ("<li>Folding was not evaluated.</li>" in html) == (stage != "evaluation")
    assert ("<li>Nothing was trained" in html) == (stage not in ("tokenizers", "models"))


def test_cards_and_captions_state_the_direction(html):
    for title in ("scTM \u2191", "scRMSD \u2193", "problems solved \u2191", "sequence cross-entropy, trained \u2193"):
        assert f"<dt>{title}</dt>" in html
    table = re.search(r'<table id="metrics-table".*?</table>', html, flags=re.DOTALL)[0]
    rows = [re.findall(r"<td>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
    assert ["ca_rmsd", "C\u03b1 RMSD", "\u00c5", "lower \u2193"] in [row[:4] for row in rows]
    assert len(rows) == len({row[0] for row in rows})


def test_page_of_a_complete_run_lists_no_missing_stage(html):
    assert "Not in this report" not in html


def test_page_has_the_notice_of_tiny_models_and_the_note(tmp_path):
    folder = make_results(tmp_path / "results", stages=("tokenizers",))
    html, _ = build_page(read_results(folder), settings(note="Mind the gap.", max_training_figures=1))
    assert "These models are tiny" in html
    assert "Mind the gap." in html


def test_numbers_sort_by_their_full_value():
    html = render("table.html", block=Table("t", ["a"], [[0.123456789], [np.float64(2)], [None], [True], ["x"]]))
    assert 'data-value="0.123456789"' in html
    assert html.count("data-value") == 2


def test_structures_in_the_viewer_are_superposed(run_folder):
    """The fixture rotates and shifts each prediction; superposed, it is within its noise of the design."""
    picked = picked_samples(read_results(run_folder), 9)
    assert 6 <= len(picked) <= 9
    assert {"best", "median", "worst"} <= {one.place for one in picked}
    assert {one.evaluation.kind for one in picked} == {"co-generation", "folding", "reconstruction"}
    for one in picked:
        scene = one.scene().values()
        assert json.loads(json.dumps(scene, allow_nan=False)) == scene
        first, second = (np.array(each["atoms"]) / 100 for each in scene["structures"])
        assert len(first) == len(second)
        assert np.sqrt(((first - second)[:, :3] ** 2).sum(1).mean()) < 1.5


def test_ranked_designs_come_in_their_order(tmp_path):
    folder = make_results(tmp_path / "results", stages=("samples", "evaluation", "designs"), tasks=("co_generation",))
    path = folder / "designs" / "demo" / "co-generation" / "designs.csv"
    table = pd.read_csv(path)
    samples = pq.read_table(folder / "samples/demo/co-generation/samples.parquet")["sample_id"].to_pylist()
    table["id"] = samples[::-1]
    table.to_csv(path, index=False)
    results = read_results(folder)
    picked = picked_samples(results, 24)
    assert [(one.name, one.place) for one in picked] == [
        (samples[-rank], f"rank {rank} of 12") for rank in (1, 2, 3, 7, 12)
    ]
    html, _ = build_page(results, settings())
    shown = re.findall(r'data-shows="demo/co-generation/([^"]*)"', html)
    assert shown == samples[::-1][:3]  # of the four in the table; the fourth is not in the viewer


def test_only_confidence_that_means_something_colours(tmp_path):
    """The fixture's predictions have pLDDT, its designs have none."""
    folder = make_results(tmp_path / "results", stages=("samples", "evaluation"), tasks=("co_generation",))
    picked = picked_samples(read_results(folder), 3)
    assert {one.scene().values()["colored_by"] for one in picked} == {"plddt"}
    folded = folder / "evaluation/demo/co-generation/folded.parquet"
    rows = pq.read_table(folded).to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, "plddt": None} for row in rows]), folded)
    for one in picked_samples(read_results(folder), 3):
        scene = one.scene().values()
        assert scene["colored_by"] == "position"
        assert not any("plddt" in each for each in scene["structures"])
        assert scene["structures"][-1]["name"] == "generated structure"


def test_logos_and_residues_are_drawn(report_folder):
    names = {path.name for path in (report_folder / "figures").glob("*.svg")}
    assert {f"logo-demo-scaffolding-{name.lower()}.svg" for name in ("1YCR", "3IXT", "6E6R_short")} <= names
    assert len([name for name in names if name.startswith("logo-")]) == 6
    assert "tokenizers-demo-demo-trained-lddt-by-residue.svg" in names
    assert "demo-co-generation-deviation-by-residue.svg" in names
    assert "demo-co-generation-plddt-by-residue.svg" in names
    assert "demo-folding-plddt-by-residue.svg" not in names


def test_title_is_that_of_the_configuration(tmp_path):
    results = read_results(make_results(tmp_path / "results", stages=("structures",)))
    for name, text, title in (
        ("zinc_fingers.yaml", "{}", "zinc_fingers"),
        ("config.yaml", "{}", "DPLM-2: results"),
        ("named.yaml", "report: {title: Mine}", "Mine"),
    ):
        (tmp_path / name).write_text(text)
        html, _ = build_page(results, load(tmp_path / name).report)
        assert f"<h1>{title}</h1>" in html


def test_chapters_go_from_designs_over_quality_to_training(html):
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["Designs", "How good they are", "Training and tokenizer"]
    places = [html.index(f'<section id="{name}">') for name in ("best", "summary", "training", "reconstruction")]
    assert places == sorted(places)


def test_viewer_can_be_disabled(tmp_path):
    folder = make_results(tmp_path / "results", stages=("samples", "evaluation"), tasks=("folding",))
    for most, there in ((0, False), (1, True)):
        html, _ = build_page(read_results(folder), settings(max_viewer_samples=most))
        assert ('class="structure-viewer"' in html) == there


def test_figure_files_are_valid_and_themed_only_in_the_page(report_folder, html):
    files = sorted((report_folder / "figures").glob("*.svg"))
    assert len(files) >= 15
    for file in files:
        root = ElementTree.parse(file).getroot()
        assert root.tag.endswith("svg")
        assert "var(--" not in file.read_text()
    assert "var(--series-1, #0072b2)" in html


def test_motif_problem_without_success_is_shown():
    figure = figures.bars("n", "t", {"demo": {"1YCR": 0.25, "4JHW": 0.0}}, "share", "c", 1.0)
    assert ">1YCR<" in figure.svg
    assert ">4JHW<" in figure.svg


def test_training_figures_have_a_fixed_number_and_order(run_folder):
    curve = next(curve for curve in read_results(run_folder).curves if curve.place == "models/demo")
    drawn = figures.training(curve, 2)
    assert [figure.name for figure in drawn] == ["training-models-demo-loss", "training-models-demo-cross_entropy"]
    assert "Training: fell from 4.31 to 1.81, and has levelled off." in drawn[0].caption


def test_single_row_of_metrics_is_plotted():
    rows = pd.DataFrame({"step": [1.0], "loss": [2.0], "validation_loss": [np.nan]})
    (figure,) = figures.training(Curve("models/x", rows), 6)
    assert "Training: one value: 2." in figure.caption


def test_long_tables_are_shortened_only_in_the_page(tmp_path):
    folder = make_results(tmp_path / "results", stages=("evaluation",), tasks=("co_generation",))
    write_report(folder, tmp_path, settings(max_table_rows=5))
    assert "5 of 48 rows" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "tables" / "samples-co-generation.csv").read_text().splitlines()) == 49


def test_likelihoods_are_shown_with_their_baseline(run_folder):
    (figure,) = likelihood(read_results(run_folder)).figures
    shown = re.findall(r">([\d.]+)</text>", figure.svg)
    assert {"2.41", "3.3", "2.88", "4.4", "6.2", "5.1"} <= set(shown)


def test_large_sets_are_subsampled_with_a_note():
    values = np.random.default_rng(0).uniform(0, 1, (5000, 2))
    frame = pd.DataFrame(values, columns=["recovery", "sc_tm"])
    figure = figures.scatter("n", "t", {"demo": frame}, "recovery", "sc_tm", "Look.")
    assert figure.svg.count("<use ") < 2500
    assert "a random 2,000 are drawn" in figure.caption


HEAD = "model,task,dataset,metric,value,n,backend,n_failed,median,low,high"


def test_published_values_are_shown_with_ours(tmp_path):
    """DPLM-2, table 4: DPLM-2 650M folds CAMEO 2022 at a mean RMSD of 7.37 angstrom; table 9: 1PRW succeeds in 0.84."""
    folding = tmp_path / "evaluation" / "m" / "folding"
    folding.mkdir(parents=True)
    (folding / "summary.csv").write_text(f"{HEAD}\nm,folding,CAMEO2022,bb_rmsd,7,9,none,0,6,6.5,7.5\n")
    scaffolding = tmp_path / "evaluation" / "m" / "scaffolding"
    scaffolding.mkdir()
    row = "m,scaffolding,motif problems,success_motif_rmsd_1,0.5,9,self,0,0,0.1,0.9"
    (scaffolding / "summary.csv").write_text(f"{HEAD}\n{row}\n")
    (scaffolding / "groups.csv").write_text(f"group,{HEAD}\nproblem=1PRW,{row}\n")
    metrics = pd.DataFrame({"sample_id": ["a", "b"], "problem": "1PRW", "success_motif_rmsd_1": [True, False]})
    metrics.to_parquet(scaffolding / "metrics.parquet")
    write_report(tmp_path, tmp_path / "out", settings())
    table = pd.read_csv(tmp_path / "out" / "tables" / "published.csv")
    row = table[(table["task"] == "folding") & (table["statistic"] == "mean") & (table["published"] == 7.37)].iloc[0]
    assert float(row["difference"]) == pytest.approx(7 - 7.37)
    assert row["in_interval"] == "yes"
    svg = next((tmp_path / "out" / "figures").glob("*success*.svg")).read_text()
    assert ">0.84<" in svg
    assert ">0.5<" in svg
    shutil.rmtree(scaffolding)
    html, _ = build_page(read_results(tmp_path), settings(published_model="nobody"))
    assert "no result of this run has a published counterpart for nobody" in html.lower()


@pytest.mark.parametrize("name", ["summary-table", "published-table"])
def test_page_tables_have_intervals_and_the_rule_for_failed_samples(tmp_path, name):
    folder = tmp_path / "evaluation" / "m" / "folding"
    folder.mkdir(parents=True)
    row = "m,folding,CAMEO2022,bb_rmsd,7,9,none,2,6,6.5,7.5,left out"
    (folder / "summary.csv").write_text(f"{HEAD},failed_rule\n{row}\n")
    html, _ = build_page(read_results(tmp_path), settings())
    table = re.search(rf'<table id="{name}".*?</table>', html, flags=re.DOTALL)[0]
    heads = re.findall(r"<button[^>]*>([^<]*)</button>", table)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table.split("<tr>")[2])
    told = dict(zip(heads, cells, strict=True))
    expected = {"n": "9", "failed": "2", "failed samples are": "left out", "low": "6.5", "high": "7.5"}
    assert expected.items() <= told.items()


def test_quality_by_length_is_plotted(report_folder):
    """A violin for each of the four requested lengths."""
    for column, axis in (("sc_tm", "scTM"), ("sc_rmsd", "scRMSD (\u00c5)"), ("plddt", "pLDDT (0 to 100)")):
        (file,) = (report_folder / "figures").glob(f"*co-generation-{column}-by-length.svg")
        svg = file.read_text()
        assert f">{axis}<" in svg
        assert svg.count('id="FillBetweenPolyCollection') == 4
        assert [f">{length}<" in svg for length in (60, 100, 150, 200)] == [True] * 4


def test_composition_and_folding_are_shown_with_their_references(report_folder):
    composition = (report_folder / "figures" / "secondary-structure.svg").read_text()
    for value in (0.5, 0.2, 0.3, 0.35, 0.25, 0.4):
        assert f">{value}<" in composition
    scatter = (report_folder / "figures" / "folding-test-tm_score-against-baseline_tm_score.svg").read_text()
    assert "TM-score, folding program" in scatter
