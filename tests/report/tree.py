"""A small results folder as of a run, built from the structures in the repository."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from biotite.structure.io import pdbx
from safetensors.numpy import save_file

DEMO = Path(__file__).parents[2] / "data" / "demo" / "train"
PROBLEMS = ("1YCR", "3IXT", "6E6R_short")
TASKS = ("reconstruction", "likelihood", "co_generation", "folding", "inverse_folding", "scaffolding")
STAGES = ("structures", "tokenizers", "tokens", "models", "samples", "evaluation", "designs")
VERSIONS = {"python": "3.11.9", "dplm2": "0.1.0", "torch": "2.13.0"}


@cache
def natives(count: int) -> dict[str, np.ndarray]:
    """Backbones (L, 4, 3) of bundled chains by chain_id."""
    found = {}
    for path in sorted(DEMO.glob("*.bcif.gz"))[:count]:
        with gzip.open(path) as stream:
            atoms = pdbx.get_structure(pdbx.BinaryCIFFile.read(stream), model=1)
        atoms = atoms[np.isin(atoms.atom_name, ["N", "CA", "C", "O"]) & ~atoms.hetero]
        residues = [atoms[atoms.res_id == number] for number in np.unique(atoms.res_id)]
        whole = [
            np.stack([r.coord[r.atom_name == name][0] for name in ("N", "CA", "C", "O")])
            for r in residues
            if len(r) >= 4
        ]
        found[path.name.removesuffix(".bcif.gz")] = np.array(whole, dtype=np.float32)
    return found


def make_results(
    folder: Path, model: str = "demo", stages: tuple[str, ...] = STAGES, tasks: tuple[str, ...] = TASKS
) -> Path:
    """Write the given stages of a run below ``folder``.

    Parameters
    ----------
    model
        Name of the model in the tables, which is arbitrary; folders are named ``demo``.
    tasks
        Evaluated tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maker = _Maker(folder, model, tasks)
    for stage in stages:
        getattr(maker, f"write_{stage}")()
    return folder


class _Maker:
    def __init__(self, folder: Path, model: str, tasks: tuple[str, ...]) -> None:
        self.folder, self.model, self.tasks = folder, model, tasks
        self.generator = np.random.default_rng(0)
        self.natives = natives(24)

    def record(self, place: str, command: str, seconds: float, settings: dict | None = None) -> None:
        record = {
            "command": command, "settings": settings or {}, "inputs": {}, "versions": VERSIONS, "device": "cpu",
            "wall_seconds": seconds, "peak_memory_bytes": 412_000_000,
        }  # fmt: skip
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        (self.folder / place / "run.json").write_text(json.dumps(record))

    def table(self, place: str, rows: list[dict], metadata: dict | None = None) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), path)

    def write_structures(self) -> None:
        rows = [
            {
                "chain_id": name,
                "sequence": "A" * len(b),
                "length": len(b),
                "backbone": b.ravel().tolist(),
                "plddt": None,
            }
            for name, b in self.natives.items()
        ]
        self.table("structures/demo/part-00000.parquet", rows)
        self.table("structures/demo/selection.parquet", [{"chain_id": name} for name in self.natives])
        codes = ["too-short"] * 9 + ["unreadable"] * 3 + ["duplicate"] * 5 + ["low-resolution"]
        rejected = [
            {"source_file": f"{i}.pdb", "chain": "A", "code": code, "reason": f"it is {code}"}
            for i, code in enumerate(codes)
        ]
        self.table("structures/demo/rejected.parquet", rejected)
        self.record("structures/demo", "structures select", 3.2)

    def write_tokenizers(self) -> None:
        self.weights("tokenizers/demo", 60_000)
        self.curve(
            "tokenizers/demo", ["loss", "fape", "distogram"], ["validation_ca_rmsd", "validation_lddt_ca"], 400, 2.0
        )
        self.record("tokenizers/demo", "tokenizer train", 131.0)

    def weights(self, place: str, size: int) -> None:
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        save_file({"weight": np.zeros((size // 100, 100), np.float32)}, self.folder / place / "model.safetensors")

    def curve(self, place: str, terms: list[str], validated: list[str], steps: int, level: float) -> None:
        step = np.arange(10, steps + 1, 10)
        noise = lambda: self.generator.normal(0, 0.03, len(step))  # noqa: E731
        frame = pd.DataFrame({"step": step, "epoch": step / 7})
        for i, name in enumerate(terms):
            frame[name] = (level + i * 0.1) * (0.35 + 0.65 * np.exp(-step / 120)) + noise()
        frame["learning_rate"], frame["gradient_norm"], frame["tokens"], frame["seconds"] = (
            1e-4,
            0.5,
            step * 900,
            step / 4,
        )
        for name in validated:
            values = (level + 0.1) * (0.4 + 0.6 * np.exp(-step / 120)) + noise()
            frame[name] = np.where(step % 50 == 0, values, np.nan)
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        frame.to_csv(self.folder / place / "metrics.csv", index=False)

    def write_tokens(self) -> None:
        for dataset, count in (("demo", 4000), ("test", 500)):
            weights = 1 / np.arange(1, 301) ** 0.8
            tokens = self.generator.choice(300, count, p=weights / weights.sum())
            rows = [
                {
                    "chain_id": "a",
                    "structure_tokens": tokens.astype(np.uint16),
                    "observed": [True] * (count - 2) + [False] * 2,
                }
            ]
            self.table(
                f"tokens/demo/{dataset}/part-00000.parquet",
                rows,
                {"codebook_size": "512", "tokenizer_fingerprint": "f"},
            )

    def write_models(self) -> None:
        tracks = ["loss_sequence", "loss_structure"]
        held_out = [f"validation_cross_entropy_{track}" for track in ("sequence", "structure")]
        self.curve("models/demo/initial", ["loss"], ["validation_cross_entropy_sequence"], 200, 2.9)
        self.curve("models/demo", ["loss", *tracks, "accuracy"], held_out, 500, 5.0)
        self.weights("models/demo", 90_000)
        self.record("models/demo/initial", "model warmup", 40.0)
        self.record("models/demo", "model train", 95.0)

    def write_samples(self) -> None:
        for task, rows in self.sample_rows().items():
            self.table(f"samples/demo/{task}/samples.parquet", rows)
            self.record(f"samples/demo/{task}", f"generate {task}", 12.0)

    def sample_rows(self) -> dict[str, list[dict]]:
        found: dict[str, list[dict]] = {"co-generation": [], "folding": [], "scaffolding": []}
        for i, (name, native) in enumerate(self.natives.items()):
            noisy = native + self.generator.normal(0, 0.4, native.shape).astype(np.float32)
            task = "co-generation" if i < 12 else "folding"
            found[task].append(
                {
                    "sample_id": f"{task}-{name}",
                    "problem": name,
                    "backbone": noisy.ravel().tolist(),
                    "tokenizer_plddt": None,
                    "length": len(native),
                    "steps": 20,
                }
            )
        found["scaffolding"] = [self.scaffold(i, problem) for i, problem in enumerate(np.repeat(PROBLEMS, 10))]
        found["inverse-folding"] = [self.inverse(i) for i in range(30)]
        return found

    def sequence(self, length: int) -> str:
        return "".join(self.generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))

    def scaffold(self, index: int, problem: str) -> dict:
        """A design without structure, its motif MKTW at a place that differs between designs."""
        place, length = 10 + index % 5, 60 + index % 7
        sequence = self.sequence(length)
        return {
            "sample_id": f"scaffold-{index}", "problem": str(problem), "length": length, "steps": 20,
            "sequence": f"{sequence[:place]}MKTW{sequence[place + 4 :]}",
            "motif_positions": list(range(place, place + 4)),
        }  # fmt: skip

    def inverse(self, index: int) -> dict:
        """One of ten sequences for each of three chains."""
        name = list(self.natives)[index // 10]
        length = len(self.natives[name])
        return {
            "sample_id": f"inverse-{index}", "problem": name, "length": length, "steps": 20,
            "sequence": self.sequence(length),
        }  # fmt: skip

    def write_evaluation(self) -> None:
        for task in self.tasks:
            getattr(self, task)()

    def write_designs(self) -> None:
        folder = self.folder / "designs" / "demo" / "co-generation"
        (folder / "best").mkdir(parents=True)
        rows = [
            {"rank": i + 1, "id": f"co-generation-{i}", "problem": "length-9", "length": 9, "passes": i < 7,
             "score": round(1 - i / 11, 4), "sc_tm": round(0.9 - i / 20, 4), "sc_rmsd": 1 + i, "failure": None,
             "sequence": "ACDEFGHIK", "file": f"best/{i + 1:03d}_{i}.pdb" if i < 3 else f"../x/{i}.pdb",
             "prediction": f"best/{i + 1:03d}_{i}_folded.pdb" if i < 2 else None}
            for i in range(12)
        ]  # fmt: skip
        pd.DataFrame(rows).to_csv(folder / "designs.csv", index=False)
        (folder / "designs.fasta").write_text("".join(f">{row['id']}\n{row['sequence']}\n" for row in rows))
        for row in rows:
            for path in (row["file"], row["prediction"]):
                if path is not None and path.startswith("best/"):
                    (folder / path).write_text(f"REMARK {path}\nEND\n")
        self.record("designs/demo/co-generation", "rank", 1.0, {"at_most": {"sc_rmsd": 7}})

    def likelihood(self) -> None:
        entropies = {
            f"{track}_cross_entropy_{variant}": value
            for track, values in {"sequence": (2.41, 3.3, 2.88), "structure": (4.4, 6.2, 5.1)}.items()
            for variant, value in zip(("trained", "untrained", "unigram"), values, strict=True)
        } | {"sequence_cross_entropy_trained_folding": 2.5}
        self.summarize("demo/likelihood/demo", "likelihood", "demo", entropies, 24, "none")

    def metrics(self, place: str, frame: pd.DataFrame) -> None:
        path = self.folder / "evaluation" / place / "metrics.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(path)

    def summarize(
        self, place: str, task: str, dataset: str, values: dict, n: int, backend: str, failed: int = 0
    ) -> None:
        rows = [
            {"model": self.model, "task": task, "dataset": dataset, "metric": metric, "value": f"{value:.6g}", "n": n,
             "backend": backend, "n_failed": failed, "median": f"{value * 0.97:.6g}", "low": f"{value * 0.9:.6g}",
             "high": f"{value * 1.1:.6g}", "failed_rule": "left out"}
            for metric, value in values.items()
        ]  # fmt: skip
        path = self.folder / "evaluation" / place / "summary.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(path, index=False)
        self.record(f"evaluation/{place}", f"evaluate {task}", 4.5)

    def reconstruction(self) -> None:
        self.reconstructed("trained", 2.2)
        self.reconstructed("untrained", 11.0)
        rows = [
            {"sample_id": name, "sequence": "A" * len(native), "native_backbone": native.ravel().tolist(),
             "backbone": self.turned(native).ravel().tolist(),
             "lddt": np.linspace(0.2, 0.9, len(native)).tolist()}
            for name, native in list(self.natives.items())[:5]
        ]  # fmt: skip
        self.table("evaluation/tokenizers/demo/demo/trained/reconstructed.parquet", rows)

    def reconstructed(self, variant: str, level: float) -> None:
        count = len(self.natives)
        rmsd = level * self.generator.lognormal(0, 0.35, count)
        lengths = [len(backbone) for backbone in self.natives.values()]
        values = {"ca_rmsd": rmsd, "tm_score": np.exp(-rmsd / 9), "lddt_ca": np.exp(-rmsd / 7)}
        values = pd.DataFrame(values).add_suffix(f"_{variant}")
        names = pd.DataFrame({"sample_id": list(self.natives), "length": lengths, "failed": False, "model": self.model})
        names[["native_helix", "native_strand", "native_coil"]] = 0.35, 0.25, 0.4
        self.metrics(f"tokenizers/demo/demo/{variant}", names.join(values))
        place = f"tokenizers/demo/demo/{variant}"
        self.summarize(place, "reconstruction", "demo", values.mean().to_dict(), count, "none")

    def co_generation(self) -> None:
        lengths = np.repeat([60, 100, 150, 200], 12)
        sc_tm = np.clip(self.generator.normal(0.75 - lengths / 500, 0.13), 0.1, 0.98)
        frame = pd.DataFrame({
            "sample_id": [f"co-generation-{name}" for name in list(self.natives)[:12]] * 4, "length": lengths,
            "sc_tm": sc_tm, "sc_rmsd": 14 * (1 - sc_tm) + 1, "plddt": 45 + 45 * sc_tm, "failed": False,
            "backend": "self", "designable_sc_tm_0.5": sc_tm >= 0.5, "designable_sc_rmsd_2": sc_tm > 0.93,
            "helix": 0.5, "strand": 0.2, "coil": 0.3,
        })  # fmt: skip
        frame.loc[3, ["sc_tm", "sc_rmsd", "plddt", "failed"]] = [np.nan, np.nan, np.nan, True]
        self.metrics("demo/co-generation", frame)
        means = (
            frame[["sc_tm", "sc_rmsd", "plddt", "designable_sc_tm_0.5", "designable_sc_rmsd_2"]].astype(float).mean()
        )
        self.summarize("demo/co-generation", "co-generation", "unconditional", means.to_dict(), 47, "self", 1)
        folded = [
            {"sample_id": f"co-generation-{name}", "backbone": self.turned(native).ravel().tolist(),
             "plddt": np.clip(80 + 25 * np.sin(np.arange(len(native)) / 6), 0, 100).tolist()}
            for name, native in list(self.natives.items())[:12]
        ]  # fmt: skip
        self.table("evaluation/demo/co-generation/folded.parquet", folded)

    def turned(self, backbone: np.ndarray) -> np.ndarray:
        rotation = np.linalg.qr(self.generator.normal(size=(3, 3)))[0]
        rotation *= np.sign(np.linalg.det(rotation))
        return (backbone @ rotation + 20 + self.generator.normal(0, 0.5, backbone.shape)).astype(np.float32)

    def folding(self) -> None:
        names = list(self.natives)[12:]
        rmsd = self.generator.lognormal(2.2, 0.5, len(names))
        frame = pd.DataFrame({
            "sample_id": [f"folding-{name}" for name in names], "problem": names, "ca_rmsd": rmsd,
            "tm_score": np.exp(-rmsd / 12), "baseline_tm_score": np.exp(-rmsd / 40),
            "length": [len(self.natives[name]) for name in names], "failed": False,
        })  # fmt: skip
        self.metrics("demo/folding", frame)
        self.summarize(
            "demo/folding", "folding", "test", frame[["ca_rmsd", "tm_score"]].mean().to_dict(), len(names), "none"
        )

    def inverse_folding(self) -> None:
        frame = pd.DataFrame({
            "sample_id": [f"inverse-{i}" for i in range(30)], "recovery": self.generator.normal(0.2, 0.04, 30),
            "sc_tm": self.generator.uniform(0.2, 0.7, 30), "length": self.generator.integers(50, 200, 30),
            "failed": False,
        })  # fmt: skip
        self.metrics("demo/inverse-folding", frame)
        self.summarize(
            "demo/inverse-folding", "inverse-folding", "test", frame[["recovery", "sc_tm"]].mean().to_dict(), 30, "self"
        )

    def scaffolding(self) -> None:
        problems = np.repeat(PROBLEMS, 10)
        rmsd = self.generator.lognormal(0.3, 0.6, 30)
        frame = pd.DataFrame({
            "sample_id": [f"scaffold-{i}" for i in range(30)], "problem": problems, "motif_rmsd": rmsd, "length": 80,
            "sc_tm": self.generator.uniform(0.3, 0.95, 30), "failed": False,
        })  # fmt: skip
        frame["success_motif_rmsd_1"] = (frame["motif_rmsd"] < 1) & (frame["sc_tm"] > 0.5)
        self.metrics("demo/scaffolding", frame)
        values = {
            "motif_rmsd": rmsd.mean(),
            "success_motif_rmsd_1": frame["success_motif_rmsd_1"].mean(),
            "problems_solved": 2,
        }
        self.summarize("demo/scaffolding", "scaffolding", "motif problems", values, 30, "self")
