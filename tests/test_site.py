"""The documentation site builds without a warning; its links lead somewhere; it loads nothing from elsewhere."""

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.documentation import PAGES, ROOT, text_of

LINK = re.compile(r"\]\(([^)\s]+)\)")
# Attributes that a browser loads by itself.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """Ids, links and loaded files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in LOADED and values.get(LOADED[tag]) and values.get("rel") not in ("canonical", "search"):
            self.loaded.append(values[LOADED[tag]])


@cache
def parsed(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-d", folder / "doctrees"]
        + ["docs", folder / "html"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.mark.xdist_group("site")
def test_links_of_the_site_lead_somewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert {path.stem for path in pages} >= {path.stem for path in (ROOT / "docs").glob("*.md")}
    broken = [f"{page.name}: {link}" for page in pages for link in parsed(page).links if not leads(page, link)]
    assert broken == []


def leads(page: Path, link: str) -> bool:
    """Whether a link has a target; of one to another site, whether it is an address."""
    parts = urlsplit(link)
    if parts.scheme:
        return parts.scheme == "mailto" or (parts.scheme in ("http", "https") and "." in parts.netloc)
    target = page.parent / unquote(parts.path) if parts.path else page
    if not target.is_file():
        return False
    return not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in parsed(target).ids


@pytest.mark.xdist_group("site")
def test_site_loads_nothing_from_elsewhere(site):
    loaded = {address for page in site.rglob("*.html") for address in parsed(page).loaded}
    assert loaded and [address for address in loaded if urlsplit(address).netloc] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"@import[^;]*//[^;]*|url\([\"']?(?:https?:)?//[^)]*", styles) == []


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("docs/")])
def test_links_of_the_repository_lead_somewhere(page):
    links = [link for link in LINK.findall(text_of(page)) if not urlsplit(link).scheme]
    assert [link for link in links if not ((ROOT / page).parent / link.split("#")[0]).exists()] == []


def test_readme_is_one_screen():
    text = text_of("README.md")
    assert len(text.splitlines()) < 70
    assert all((ROOT / path).stat().st_size < 200_000 for path in LINK.findall(text) if path.endswith(".png"))


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", text_of("README.md"), flags=re.MULTILINE))
def test_make_target_of_the_readme_exists(target):
    assert f"\n{target}: " in (ROOT / "Makefile").read_text(encoding="utf-8")
