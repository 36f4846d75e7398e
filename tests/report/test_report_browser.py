"""The page in a real browser: ribbons are drawn, tables sort, links lead somewhere, and a phone can show it."""

import io
import re

import numpy as np
import pytest

from dplm2.viewer import Scene, Structure, viewer_html
from tests.report.browser import CHROMIUM, DRIVER, Browser
from tests.report.tree import natives

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver on PATH"),
    pytest.mark.xdist_group("browser"),
]
DESKTOP, PHONE = (1400, 900), (390, 844)
DRAWN = "return document.querySelector('.viewer-stage').dataset"
CHOOSE = (
    "const field = document.querySelector('select[data-choice={}]');"
    "field.value = '{}'; field.dispatchEvent(new Event('change'))"
)
FRAME = 9  # pixels of the rounded border
BOX = "return document.querySelector('.viewer-stage').getBoundingClientRect().toJSON()"


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(report_folder):
    return report_folder / "report.html"


def stage(browser) -> np.ndarray:
    """The pixels (height, width, 3) of the viewer's picture."""
    from PIL import Image

    box = browser.run(BOX)
    image = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("RGB"))
    top, left = round(box["top"]) + FRAME, round(box["left"]) + FRAME
    return image[top : top + round(box["height"]) - 2 * FRAME, left : left + round(box["width"]) - 2 * FRAME]


def colored(pixels: np.ndarray, color: str, tolerance: int = 30) -> int:
    """Number of pixels of a hue: the library shades colours, so their proportions are compared."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)
    bright = pixels.astype(float)
    scaled = bright * (np.linalg.norm(wanted) / np.maximum(np.linalg.norm(bright, axis=-1, keepdims=True), 1))
    return int(((np.abs(scaled - wanted).max(-1) < tolerance) & (bright.max(-1) > 60)).sum())


def test_page_opens_without_errors_and_draws_a_ribbon(browser, page):
    browser.size(*DESKTOP)
    browser.open(page)
    assert browser.messages() == []
    said = browser.run(DRAWN)
    assert said["drawing"] == "ribbon" and int(said["drawn"]) > 100
    pixels = stage(browser)
    ink = (pixels < 235).any(-1)
    assert 0.02 < ink.mean() < 0.6
    # Nothing is clipped: the picture does not reach its frame.
    assert not ink[[0, -1]].any() and not ink[:, [0, -1]].any()


def test_first_screen_shows_what_was_asked_for(browser, page):
    browser.size(*DESKTOP)
    browser.open(page)
    for width, height, phone, screens in ((*PHONE, True, 2), (*DESKTOP, False, 1)):
        browser.size(width, height, phone)
        assert browser.run(BOX)["bottom"] < screens * height


def test_viewer_turns_zooms_colours_and_hides(browser, page):
    browser.size(*DESKTOP)
    browser.open(page)
    before = stage(browser)
    browser.run(
        "document.querySelector('.viewer-stage').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))"
    )
    turned = stage(browser)
    assert (before != turned).any(-1).mean() > 0.01
    browser.click("[data-action=closer]")
    assert (stage(browser) < 235).any(-1).sum() > (turned < 235).any(-1).sum()
    browser.click("[data-action=reset]")
    assert (stage(browser) != before).any(-1).mean() < 0.001
    residues = int(browser.run(DRAWN)["drawn"])
    browser.click(".viewer-legend input")
    assert int(browser.run(DRAWN)["drawn"]) == residues / 2
    browser.run(CHOOSE.format("color", "structure"))
    assert re.search("helix.*strand.*coil", browser.run("return document.querySelector('.viewer-legend').textContent"))
    last = browser.run("return document.querySelector('select[data-choice=scene]').options.length") - 1
    browser.run(CHOOSE.format("scene", last))
    assert "reconstruction" in browser.run("return document.querySelector('.viewer-legend').textContent")
    assert browser.messages() == []


def test_page_fits_a_phone_and_nothing_is_clipped(browser, page):
    browser.size(*PHONE, phone=True)
    browser.open(page)
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    browser.run("document.querySelector('[data-choice=scene] option').textContent = 'a long name '.repeat(9)")
    assert browser.run(wide) == [390, 390]
    browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert browser.run(wide) == [390, 390]
    clipped = """
    const labels = [...document.querySelectorAll('figure svg text')];
    return labels.filter((text) => {
      const [box, frame] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      const over = [frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom];
      return Math.max(...over) > 2;
    }).map((text) => text.closest('figure').textContent.trim().slice(0, 60) + ': ' + text.textContent);
    """
    assert browser.run(clipped) == []
    browser.size(*DESKTOP)


def test_tables_sort_and_filter(browser, page):
    browser.open(page)
    values = (
        "const table = document.getElementById('summary-table');"
        "const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === 'value');"
    )
    read = values + "return [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value))"
    click = values + "table.tHead.rows[0].cells[column].querySelector('button').click()"
    browser.run(click)
    up = browser.run(read)
    browser.run(click)
    assert len(up) > 10 and up == sorted(up) and browser.run(read) == up[::-1]
    browser.run(
        "const field = document.querySelector('input[data-filters=summary-table]');"
        "field.value = 'RECOVERY'; field.dispatchEvent(new Event('input'))"
    )
    left = "return [...document.getElementById('summary-table').tBodies[0].rows].filter((row) => !row.hidden).length"
    assert browser.run(left) == 1


def test_content_policy_blocks_foreign_scripts(browser, page, tmp_path):
    attacked = tmp_path / "attacked.html"
    attack = '<script>document.documentElement.dataset.attacked = "yes"</script>'
    attacked.write_text(page.read_text().replace("</body>", attack + "</body>"))
    browser.open(attacked)
    assert browser.run("return document.documentElement.dataset.attacked || 'no'") == "no"
    assert any("Content Security Policy" in line for line in browser.messages())


def test_confidence_colours_are_those_of_the_alphafold_database(browser, tmp_path):
    """alphafold.ebi.ac.uk, model confidence: #0053D6 above 90, #65CBF3 above 70, #FFDB13 above 50, else #FF7D45."""
    native = next(iter(natives(1).values()))
    colors = {95: "#0053d6", 80: "#65cbf3", 60: "#ffdb13", 30: "#ff7d45", None: "#9aa3ad"}
    # One residue has a pLDDT in any case, so that it can be chosen.
    structures = [Structure(str(plddt), native, plddt=[95] + [plddt] * (len(native) - 1)) for plddt in colors]
    path = tmp_path / "alone.html"
    path.write_text(_inner(viewer_html(structures)), encoding="utf-8")
    browser.size(600, 300)  # software draws slowly
    browser.open(path)
    for place, (plddt, color) in enumerate(colors.items()):
        browser.run(CHOOSE.format("scene", place))
        pixels = stage(browser)
        ribbon = int((pixels < 235).any(-1).sum())
        assert colored(pixels, color) > 0.6 * ribbon, plddt
    browser.size(*DESKTOP)


def test_without_webgl_a_trace_is_drawn_with_a_note(tmp_path):
    native = next(iter(natives(1).values()))
    path = tmp_path / "alone.html"
    path.write_text(_inner(viewer_html(Scene("a", [Structure("a", native)]))), encoding="utf-8")
    with Browser(webgl=False) as browser:
        browser.open(path)
        assert browser.run(DRAWN)["drawing"] == "trace"
        assert "no WebGL" in browser.run("return document.querySelector('.viewer-without').textContent")
        assert (stage(browser) < 200).any(-1).mean() > 0.01


def test_frame_works_inside_of_another_page(browser, tmp_path):
    native = next(iter(natives(1).values()))
    path = tmp_path / "notebook.html"
    path.write_text("<!DOCTYPE html><body>" + viewer_html(Structure("a", native)), encoding="utf-8")
    browser.open(path)
    inside = "return document.querySelector('iframe').contentDocument.querySelector('.viewer-stage').dataset.drawn"
    assert int(browser.run(inside)) == len(native)


def _inner(frame: str) -> str:
    import html

    return html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
