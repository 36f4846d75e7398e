"""A run of the real Snakefile at the smallest size, shared by the tests in this folder."""

import csv
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dplm2.shared_start import OWNER
from tests.workflow.dry_run import dry_run

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "data" / "demo"
TOOLS = Path(sys.executable).parent
COMMON = ("--snakefile", str(ROOT / "Snakefile"), "--cores", "2")  # of all runs
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
OF_THE_RUN = ("logs", "report")
FEW_STEPS = {"steps": 3, "token_budget": 400, "validate_every": None, "log_every": 1}


def smallest_configuration() -> dict:
    """All stages, sizes of a few channels, a few steps."""
    task = {"steps": 4, "format": "pdb"}
    encoder = {
        "width": 12,
        "layers": 1,
        "heads": 2,
        "feedforward_width": 12,
        "gvp_layers": 1,
        "node_scalars": 8,
        "node_vectors": 2,
        "edge_scalars": 4,
        "neighbours": 8,
        "dropout": 0.0,
    }
    decoder = {
        "sequence_dim": 16,
        "pair_dim": 8,
        "blocks": 1,
        "sequence_head_width": 8,
        "pairwise_head_width": 8,
        "structure_blocks": 1,
        "ipa_heads": 2,
        "post_quant_layers": 1,
        "post_quant_heads": 2,
        "confidence_hidden": 8,
    }
    motif = "motifs/ubiquitin-helix.yaml"
    return {
        "device": "cpu",
        "threads": 1,
        "datasets": {
            "own": {"files": "files", "shards": 2},
            "test": {"files": str(DEMO / "train" / "1shg_A.bcif.gz")},
        },
        "tokenizers": {
            "tiny": {
                "datasets": ["own"],
                "encoder": encoder,
                "quantizer": {"bits": 4},
                "decoder": decoder,
                "training": FEW_STEPS,
            }
        },
        "models": {
            "tiny": {
                "tokenizer": "tiny",
                "datasets": ["own"],
                "network": {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 16},
                "warmup": {
                    "source": "scratch",
                    "sequence_files": ["sequences.fasta.gz"],
                    "sequence_training": FEW_STEPS,
                },
                "training": FEW_STEPS,
            }
        },
        "generation": {
            "co-generation": {"task": "co-generation", "lengths": [20], "samples": 2, **task},
            "folding": {"task": "folding", "dataset": "test", **task},
            "inverse-folding": {"task": "inverse-folding", "dataset": "test", **task},
            "scaffolding": {"task": "scaffolding", "problems": [motif], "samples": 1, **task},
        },
        "representations": {
            "small": {"task": "thermostability", "data": "labels.csv", "tracks": "sequence"},
        },
        "proteingym": {"assays": {"reference": "DMS.csv", "assays_folder": "assays"}},
        "evaluation": {
            "reconstruction": ["test"],
            "likelihood": ["own"],
            "self": {"steps": 2},
            "bootstrap_samples": 20,
        },
    }


def contents(results: Path) -> dict[str, str]:
    """A run's results by file: hashes of the contents without times.

    Logs, the report and each ``run.json`` describe the run itself and are excluded.
    """
    files = {path.relative_to(results): path for path in sorted(results.rglob("*")) if path.is_file()}
    return {
        str(name): hashlib.sha256(_timeless(path)).hexdigest()
        for name, path in files.items()
        if name.parts[0] not in OF_THE_RUN and not name.name.startswith(".") and name.name != "run.json"
    }


def _timeless(path: Path) -> bytes:
    if path.name != "metrics.csv":
        return path.read_bytes()
    with path.open(newline="") as stream:
        return repr([{**row, "seconds": None} for row in csv.DictReader(stream)]).encode()


class Workdir:
    """A folder with a configuration, in which the repository's Snakefile is run.

    Parameters
    ----------
    folder
        Where; it must not exist.
    shares
        Whether the commands of all runs share a start of Python, instead of those of a run.
    """

    def __init__(self, folder: Path, shares: bool = True) -> None:
        self.folder = folder
        self.environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.environment |= {OWNER: str(os.getpid())} if shares else {}
        self.configuration = smallest_configuration()
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        for name in ("motifs/ubiquitin-helix.yaml", "motifs/1ubq_A.bcif.gz"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(DEMO / name, folder / name)
        for path in sorted((DEMO / "train").glob("*.bcif.gz"))[:4]:
            shutil.copy(path, self.files)
        (folder / "DMS.csv").write_text(f"DMS_id,DMS_filename,target_seq\nx,x.csv,{AMINO_ACIDS}\n")
        (folder / "assays").mkdir()
        (folder / "assays" / "x.csv").write_text("mutant,DMS_score\nA1C,0.2\nC2A,0.1\nD3C,0.5\n")
        splits = ("train", "validation", "test")
        rows = [f"p{n},{AMINO_ACIDS[n:]},{n % 4}.5,{splits[n % 3]}\n" for n in range(12)]
        (folder / "labels.csv").write_text("id,sequence,label,split\n" + "".join(rows))
        with gzip.open(folder / "sequences.fasta.gz", "wt") as stream:
            stream.writelines(f">{start}\n{2 * AMINO_ACIDS[start:]}\n" for start in range(12))

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start Snakemake here, as leader of a process group, with the current configuration."""
        self._write()
        return subprocess.Popen(
            [TOOLS / "snakemake", *COMMON, *arguments],
            cwd=self.folder,
            env=self._variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _write(self) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.configuration))

    def _variables(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", **self.environment}

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Snakemake here with the current configuration."""
        if "--dry-run" in arguments:
            self._write()
            return dry_run([*COMMON, *arguments], self.folder, self._variables())
        process = self.start(*arguments)
        said = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, *said)

    def planned(self, *targets: str) -> dict[str, int]:
        """Rules that a run would execute now, with their numbers of jobs."""
        done = self.snakemake(*targets, "--dry-run", "--quiet", "rules")
        assert done.returncode == 0, done.stdout + done.stderr
        jobs: dict[str, int] = {}
        for line in (done.stdout + done.stderr).splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit() and words[0] != "total":
                jobs[words[0]] = int(words[1])
        return jobs


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the finished run are in one process, which makes it once."""
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("finished run"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Workdir:
    """A finished run of the whole workflow."""
    workdir = Workdir(tmp_path_factory.mktemp("workflow"))
    done = workdir.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir
