"""Every command of the README and the documentation is run; where that takes a network, more than this machine or more
than seconds, as far as it goes without.

docs/scores.md, docs/designs.md and docs/first-designs.md have tests of their own (tests/scoring, tests/evaluation,
tests/test_first_designs.py).
"""

import gzip
import os
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch.distributed.run import get_args_parser

from dplm2.cli import main
from tests import hub
from tests.documentation import PAGES, commands, examples
from tests.representations.test_saprot import write_task
from tests.workflow.conftest import DEMO, ROOT, TOOLS
from tests.workflow.dry_run import dry_run

TESTED_ELSEWHERE = {"docs/scores.md", "docs/designs.md", "docs/first-designs.md"}
OWN_STRUCTURES = "docs/own-structures.md"  # its runs clean structures; those of other pages are planned
SNAKEMAKE = TOOLS / "snakemake"
PLAN = ["--dry-run", "--quiet", "rules"]
pytestmark = pytest.mark.workflow


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """The repository's folder with what the commands name: a finished run, structures, sequences."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in {"results", "state", "build"}:
            (tmp_path / path.name).symlink_to(path)
    results = tmp_path / "results"
    shutil.copytree(finished.folder / "results" / "models" / "tiny", results / "models" / "demo")
    shutil.copytree(finished.folder / "results" / "tokenizers", results / "tokenizers")
    shutil.copytree(results / "tokenizers" / "tiny", results / "tokenizers" / "demo")
    shutil.copytree(finished.folder / "results" / "evaluation", results / "benchmark" / "evaluation")
    for place, name in (("structures/train", "1shg_A"), ("structures/test", "1ubq_A")):
        (structure,) = DEMO.rglob(f"{name}.bcif.gz")
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(structure, tmp_path / place)
        (tmp_path / "complex.pdb").write_bytes(gzip.decompress(structure.read_bytes()))  # recognised by the content
    (tmp_path / "proteins.fasta").write_text(">a\nMKTAYIAKQR\n>b\nACDEFGH\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def archive():
    """The address of an archive that has one structure under every id."""
    structure = (DEMO / "train" / "1shg_A.bcif.gz").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(structure)))
            self.end_headers()
            self.wfile.write(structure)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{{id}}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def world(recorded, folder):
    """A hub with the authors' repositories and tiny weights, one of which lies here, too."""
    files = hub.official_files(recorded) | {"facebook/esmfold_v1": {"config.json": b"{}"}}
    (folder / "path/to/dplm2_650m").mkdir(parents=True)
    for name, content in files[hub.MODEL].items():
        (folder / "path/to/dplm2_650m" / name).write_bytes(content)
    with hub.running_hub() as server:
        server.repositories |= {name: hub.Repository(contents) for name, contents in files.items()}
        yield server


class Reader:
    """Someone who follows a page: a method for each program."""

    def __init__(self, page: str, folder: Path, world: hub.Hub, archive: str) -> None:
        self.page, self.folder, self.world, self.archive = page, folder, world, archive
        for example in examples(page, "yaml"):
            name = example.split("\n")[0].removeprefix("# ")
            if name.endswith(".yaml"):
                (folder / name).write_text(example)

    def dplm2(self, *words: str) -> None:
        """Run it, with few steps."""
        given = list(words)
        if words[:2] == ("structures", "fetch"):
            given += ["--set", f"fetch.pdb_address={self.archive}"]
        elif words[0] in ("generate", "design"):
            given += ["--set", "steps=10", *(["evaluation.self.steps=2"] if words[0] == "design" else [])]
        if any("airkingbd/" in word for word in words):
            done = self.world.run(self.folder / "home", "-m", "dplm2", *given, cwd=self.folder)
            assert done.returncode == 0, done.stderr
        else:
            assert main(given) == 0
        if "--out" in words:
            assert (self.folder / words[words.index("--out") + 1]).exists()

    def snakemake(self, *words: str) -> None:
        """Clean structures; plan everything else."""
        places = {"/path/to/structures": str(self.folder / "structures"), "/opt/dplm2/": f"{self.folder}/"}
        given = list(words)
        for old, new in places.items():
            given = [word.replace(old, new) for word in given]
        if "--software-deployment-method" in given and shutil.which("conda") is None:
            given = [word for word in given if word not in ("--software-deployment-method", "conda")]
        if self.page == OWN_STRUCTURES:
            given = ["structures", *given]
        elif "--dry-run" not in given:
            given = [*PLAN, *given] if "--" in given else [*given, *PLAN]
        self._run(SNAKEMAKE, *given)
        if self.page == OWN_STRUCTURES:
            assert (self.folder / "results/mine/structures/demo/part-00000.parquet").is_file()

    def make(self, target: str) -> None:
        """Say what it would do."""
        self._run("make", "--dry-run", target)

    def export(self, setting: str) -> None:
        """A variable for the shell."""
        assert setting.split("=")[0] == "SNAKEMAKE_OUTPUT_CACHE"

    def pip(self, action: str, *words: str) -> None:
        """The package and its extras are what pip would find here."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        known = {".", "torch", *project["optional-dependencies"]["slurm"][0].split(">=")[:1]}
        known |= {f".[{extra}]" for extra in project["optional-dependencies"]}
        values = {words[place + 1] for place, word in enumerate(words) if word == "--index-url"}
        assert action == "install"
        assert {word for word in words if not word.startswith("--")} - values <= known

    def conda(self, *words: str) -> None:
        """The environment's file lists packages; what runs in the environment is checked by itself."""
        if words[0] == "run":
            return self.follow(shlex.join(words[3:]))
        described = yaml.safe_load((self.folder / words[words.index("--file") + 1]).read_text())
        assert words[:2] == ("env", "create") and {"channels", "dependencies"} <= set(described)
        return None

    def apptainer(self, action: str, *words: str) -> None:
        """What the recipe copies exists; what runs in the image runs here, too."""
        given = [word for word in words if word != "--nv"]
        if action == "build":
            recipe = (self.folder / given[-1]).read_text()
            copied = recipe.split("%files\n")[1].split("\n\n")[0].split("\n")
            assert copied and all((self.folder / line.split()[0]).exists() for line in copied)
        else:
            self.follow(shlex.join([*(["dplm2"] if action == "run" else []), *given[1:]]))

    def hf(self, action: str, *words: str) -> None:
        """Download from the hub; of an upload, all but the transfer (2: wrong use)."""
        done = subprocess.run(
            [TOOLS / "hf", action, *words], cwd=self.folder, env=self.world.environment(self.folder / "home"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 if action == "download" else done.returncode != 2, done.stderr

    def srun(self, *words: str) -> None:
        """Slurm's own options are in tests/workflow/test_slurm.py; here the module that a task runs."""
        module = words[words.index("-m") + 1]
        assert words[words.index("python")] and (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()

    def python(self, *words: str) -> None:
        """A measurement of minutes: it knows all the options."""
        done = subprocess.run(
            [sys.executable, *words[:2], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert [word for word in words if word.startswith("--") and word not in done.stdout] == []

    def torchrun(self, *words: str) -> None:
        """Its options; a training in several processes is in tests/training."""
        parsed = get_args_parser().parse_args(words)
        assert (parsed.module, parsed.training_script) == (True, "dplm2")

    def follow(self, command: str) -> None:
        program, *words = shlex.split(command)
        getattr(self, program)(*words)

    def _run(self, program: str | Path, *words: str) -> None:
        own = {"PATH": f"{TOOLS}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        variables = {**os.environ, **own, "SNAKEMAKE_OUTPUT_CACHE": str(self.folder / "cache")}
        if program == SNAKEMAKE and "--dry-run" in words:
            done = dry_run(words, self.folder, variables)
        else:
            done = subprocess.run(
                [program, *words], cwd=self.folder, env=variables, capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) and page not in TESTED_ELSEWHERE])
def test_commands_run(page, folder, world, archive):
    reader = Reader(page, folder, world, archive)
    if page == "docs/install.md":
        shutil.copy(ROOT / "config.yaml", folder / "mine.yaml")
    if page == "docs/representations.md":
        pytest.importorskip("sklearn")
        random = np.random.default_rng(0)
        sequences = ["".join(random.choice(list("ACDEFGHIKL"), 12)) for _ in range(30)]
        entries = [{"seq": sequence, "fitness": sequence.count("A")} for sequence in sequences]
        write_task(folder / "LMDB" / "Thermostability", [entries[:14], entries[14:22], entries[22:]])
    if page == "dplm2/assets/small_tokenizer/README.md":
        assert main(["structures", "clean", "structures", "--out", "chains"]) == 0
        assert main(["structures", "select", "chains"]) == 0
    for command in commands(page):
        reader.follow(command)


def test_configuration_for_fewer_data_is_valid(folder, world, archive):
    """The one of docs/reproduce.md, planned with the authors' tokenizer."""
    Reader("docs/reproduce.md", folder, world, archive).snakemake("--cores", "1", "--configfile", "mine.yaml")


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page, "python") and page not in TESTED_ELSEWHERE])
def test_python_example_runs(page, folder):
    (example,) = examples(page, "python")
    names: dict = {}
    exec(compile(example, page, "exec"), names)
    assert len(names["protein"].sequence) == 80
    assert (folder / "protein.pdb").stat().st_size > 80 * 4 * 80
    if page == "docs/python.md":
        assert len(names["scaffolds"]) == 2 and names["redesigned"].sequence != ""
        assert names["backbone"].shape == (80, 4, 3)
