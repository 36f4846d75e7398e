"""The pages of the documentation, and what they tell a reader to run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = (
    "apptainer", "conda", "dplm2", "export", "hf", "make", "pip", "python", "snakemake", "srun", "torchrun",
)  # fmt: skip
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ("*.md", "benchmarks/README.md", "config/README.md", "docs/*.md", "dplm2/assets/*/README.md")
    for path in ROOT.glob(place)
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """The commands in the indented blocks of a page, continued lines joined, without comments."""
    lines = text_of(page).replace("\\\n", " ").splitlines()
    found = [re.sub(r"\s+", " ", re.split(r"\s+#", line)[0]).strip() for line in lines if line.startswith("    ")]
    return [line for line in found if line.split(" ")[0] in PROGRAMS]


def examples(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), flags=re.DOTALL | re.MULTILINE)
