"""The page in a real browser: no errors in the console, the viewer draws, tables sort."""

import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")

# Clicks through the page as a reader would, and records the observations in the document.
CLICKS = """
<script>
const say = (name, value) => document.documentElement.setAttribute("data-" + name, value);
const table = document.getElementById("summary-table");
const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "value");
const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value)).join(" ");
table.tHead.rows[0].cells[column].querySelector("button").click();
say("up", values());
table.tHead.rows[0].cells[column].querySelector("button").click();
say("down", values());
const field = document.querySelector("input[data-filters=summary-table]");
field.value = "RECOVERY";
field.dispatchEvent(new Event("input"));
say("left", [...table.tBodies[0].rows].filter((row) => !row.hidden).length);
const canvas = document.querySelector("#viewer canvas");
const pixels = () => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const color = (data, i) => data.slice(4 * i, 4 * i + 3).join();
const tint = (data) => new Set(Array.from({length: data.length / 4}, (_, i) => color(data, i))).size;
say("tints", tint(pixels()));
const before = canvas.toDataURL();
canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
say("turned", before !== canvas.toDataURL());
const select = document.querySelector("#viewer select");
say("samples", select.options.length);
const first = document.querySelector(".viewer-facts").textContent;
select.value = "1";
select.dispatchEvent(new Event("change"));
say("changed", first !== document.querySelector(".viewer-facts").textContent);
say("wide", document.documentElement.scrollWidth > document.documentElement.clientWidth);
</script>
"""


@pytest.fixture
def page(report_folder):
    return report_folder / "report.html"


def visit(page, profile, width=1200):
    """The document after its scripts have run, and the messages of the console."""
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_page_opens_without_errors_and_the_viewer_draws(page, tmp_path):
    document, console = visit(page, tmp_path)
    assert console == []
    assert int(re.search(r'data-drawn="(\d+)"', document)[1]) > 100


def test_tables_sort_and_filter_and_the_viewer_reacts(page, tmp_path):
    clicked = tmp_path / "clicked.html"
    # The page's content policy forbids other scripts and is removed from this copy.
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    clicked.write_text(html.replace("</body>", CLICKS + "</body>"))
    document, console = visit(clicked, tmp_path, width=500)
    assert console == []
    said = dict(re.findall(r'data-(\w+)="([^"]*)"', document.split(">", 2)[1]))
    up, down = ([float(value) for value in said[name].split()] for name in ("up", "down"))
    assert len(up) > 10
    assert up == sorted(up)
    assert down == up[::-1]
    assert said["left"] == "1"
    assert int(said["tints"]) > 20
    assert said["turned"] == said["changed"] == "true"
    assert int(said["samples"]) >= 3
    assert said["wide"] == "false"


def test_content_policy_blocks_foreign_scripts(page, tmp_path):
    attacked = tmp_path / "attacked.html"
    attack = '<script>document.documentElement.dataset.attacked = "yes"</script>'
    attacked.write_text(page.read_text().replace("</body>", attack + "</body>"))
    document, console = visit(attacked, tmp_path)
    assert "data-attacked" not in document
    assert any("Content Security Policy" in line for line in console)
