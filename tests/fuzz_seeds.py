"""Valid files of every kind of input, and the functions that read them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from dplm2.language.chains import TokenizedChains

ROOT = Path(__file__).parents[1]
Reader = Callable[[bytes, Path], object]
PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


def make(folder: Path) -> Path:
    """Write a tiny tokenizer, a tiny model, chains, tokens and samples; returns their folder."""

    from dplm2.core.artifacts import write_json
    from dplm2.language.esm import Esm2, Esm2Config
    from dplm2.language.network import MultimodalEsm
    from dplm2.language.vocabulary import Vocabulary
    from dplm2.settings.tokenizer import TokenizerSettings
    from dplm2.tokenizer.model import StructureTokenizer
    from tests.generation.conftest import DECODER, ENCODER

    made = folder / "sound"
    torch.manual_seed(0)
    tokenizer = StructureTokenizer(
        TokenizerSettings.make(encoder=ENCODER, quantizer={"bits": 4}, decoder=DECODER)
    ).eval()
    tokenizer.save_pretrained(made / "tokenizer")
    esm = Esm2(Esm2Config(len(Vocabulary(16)), 16, 2, 2, 32))
    MultimodalEsm(esm, Vocabulary(16)).save_pretrained(made / "model")
    _write_tables(made)
    write_json(made / "run.json", {"command": "generate", "settings": {"seed": 0}, "inputs": {}, "parts": 3})
    # Copies without checksums, as written by other programs, so that damage reaches the parsers.
    for path in list(made.glob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table, path.with_name(f"foreign-{path.name}"), compression="none")
    for kind in ("tokenizer", "model"):
        weights = load_file(made / kind / "model.safetensors")
        save_file(weights, made / kind / "foreign.safetensors", {"format": "pt"})
    return made


def _write_tables(made: Path) -> None:
    from dplm2.core import parquet
    from dplm2.generation.samples import SAMPLES
    from dplm2.structures.store import CHAINS
    from dplm2.tokenizer.tokens import SCHEMA

    length = len(PROTEIN)
    draw = np.random.default_rng(0)
    text = {"chain_id": "1abc_A", "sequence": PROTEIN, "split": "train", "cluster": "c", "length": length}
    text |= {
        "structure_tokens": draw.integers(16, size=length).tolist(),
        "settings": "{}",
        "sample_id": "s",
        "steps": 1,
    }
    text |= {"backbone": draw.normal(size=length * 12).tolist(), "plddt": [90.0] * length, "seed": 1, "task": "folding"}
    text |= {"residue_index": list(range(length)), "model": "m", "problem": "1abc_A"}
    for name, schema in (("chains", CHAINS), ("tokens", SCHEMA), ("samples", SAMPLES)):
        table = pa.Table.from_pylist([_row(schema, text, number) for number in range(40)], schema=schema)
        metadata = {"tokenizer_fingerprint": "0" * 16, "codebook_size": "16"} if name == "tokens" else None
        parquet.write_table(made / f"{name}.parquet", table, metadata=metadata)


def _row(schema: pa.Schema, values: dict, number: int) -> dict:
    row = {field.name: values.get(field.name, _filler(field, len(PROTEIN))) for field in schema}
    for name in ("chain_id", "sample_id"):
        if name in row:
            row[name] = f"{row[name]}{number}"
    return row


def _filler(field: pa.Field, length: int) -> object:
    if field.type == pa.list_(pa.bool_()):
        return [True] * length
    if field.nullable:
        return None
    return 1 if pa.types.is_integer(field.type) else "x"


def readers(made: Path) -> dict[str, tuple[list[bytes], Reader]]:
    """Valid files by kind of input, and a function that reads broken versions of them."""
    demo = sorted((ROOT / "data/demo/train").glob("*.bcif.gz"))[:8]
    binary = [gzip.decompress(path.read_bytes()) for path in demo]
    folders = {name: made / name for name in ("tokenizer", "model")}
    return {
        "structures": (_text_structures(binary), _clean),
        "binary CIF": (binary, _clean),
        "FASTA": (_fasta(), _read_fasta),
        "configurations": (_bytes(ROOT.glob("config/*.yaml")), _load_configuration),
        "motif problems": (_bytes(ROOT.glob("config/motifs/*.yaml")), _read_problem),
        "official YAML": ([OFFICIAL], _read_official),
        "cluster tables": ([CLUSTERS.replace(b",", mark) for mark in (b",", b"\t")], _find_clusters),
        "label tables": ([_labels(200)], _read_labels),
        "residue tables": ([RESIDUES], _read_residues),
        "metrics of a training": ([METRICS], _read_metrics),
        "manifests": ([_manifest()], _read_manifest),
        "chains": (_bytes(made.glob("*chains.parquet")), _read_chains),
        "tokens": (_bytes(made.glob("*tokens.parquet")), _read_tokens),
        "samples": (_bytes(made.glob("*samples.parquet")), _read_samples),
        "weights of models": (_bytes(folders["model"].glob("*.safetensors")), _weights_reader(folders["model"])),
        "weights of tokenizers": (
            _bytes(folders["tokenizer"].glob("*.safetensors")),
            _weights_reader(folders["tokenizer"]),
        ),
        "config.json of models": (_bytes([folders["model"] / "config.json"]), _config_reader(folders["model"])),
        "config.json of tokenizers": (
            _bytes([folders["tokenizer"] / "config.json"]),
            _config_reader(folders["tokenizer"]),
        ),
        "run.json": (_bytes([made / "run.json"]), _read_record),
    }


OFFICIAL = b"""\
model:
  _target_: vqmodel
  codebook_config: {num_codes: 8192, codebook_dim: 13}
  if1_args: &args {encoder_attention_heads: 8, gvp_top_k_neighbors: 30}
  decoder_config: {trunk: {max_recycles: 1, structure_module: {no_blocks: 8}}}
  again: [*args, *args]
"""
CLUSTERS = b"chain_id,cluster\n" + b"".join(b"1abc_%d,c%d\n" % (number, number // 3) for number in range(60))
RESIDUES = b"position,residue,structure_token\n" + b"".join(
    b"%d,%s,%d\n" % (number, b"ACDEF?"[number % 6 :][:1], number) for number in range(1, 60)
)
METRICS = b"step,epoch,loss,learning_rate,gradient_norm,tokens,seconds\n" + b"".join(
    b"%d,0.5,2.25,0.001,1.5,%d,3.5\n" % (number, number * 100) for number in range(1, 50)
)


def _bytes(paths) -> list[bytes]:  # noqa: ANN001
    return [path.read_bytes() for path in sorted(paths)]


def _fasta() -> list[bytes]:
    records = "".join(f">chain_{number} a protein\n{PROTEIN[number % 7 :]}\n{PROTEIN}\n" for number in range(40))
    return [
        records.encode(),
        gzip.compress(records.encode(), mtime=0),
        b"\xef\xbb\xbf" + records.replace("\n", "\r\n").encode(),
    ]


def _labels(count: int) -> bytes:
    rows = [f"p{n},{n * 0.37},{('train', 'validation', 'test')[n % 3]}" for n in range(count)]
    return ("chain_id,label,split\n" + "\n".join(rows) + "\n").encode()


def _manifest() -> bytes:
    from dplm2.structures.manifest import HEADER

    lines = [f"models/{n}.cif\t7\t{n}00.1700000000000000\t1700000000\n" for n in range(50)]
    return "".join([f"{HEADER}\n", *lines]).encode()


def _text_structures(binary: list[bytes]) -> list[bytes]:
    """The demo's chains as PDB and mmCIF."""
    import io

    from biotite.structure.io import pdb, pdbx

    texts = []
    for data in binary[:4]:
        atoms = pdbx.get_structure(pdbx.BinaryCIFFile.read(io.BytesIO(data)), model=1)[:1500]
        file, out = pdb.PDBFile(), io.StringIO()
        file.set_structure(atoms)
        file.write(out)
        cif = pdbx.CIFFile()
        pdbx.set_structure(cif, atoms, data_block="x")
        texts += [out.getvalue().encode(), cif.serialize().encode()]
    return texts


def _clean(data: bytes, folder: Path) -> None:
    from dplm2.structures.formats.archives import Item
    from dplm2.structures.shards import CLEANING_FAILED, clean_item
    from tests.structures.fuzz import check_chain
    from tests.structures.made import settings

    chains, rejects = clean_item(Item("f", "0" * 64, "f", content=data), settings(filters={"min_length": 5}))
    assert chains or rejects
    for chain in chains:
        check_chain(chain)
    for reject in rejects:
        assert CLEANING_FAILED not in reject.reason, reject.reason
    if not chains:
        from dplm2.core.errors import DPLM2Error

        raise DPLM2Error(rejects[0].reason)


def _as_file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)
    return path


def _read_fasta(data: bytes, folder: Path) -> object:
    from dplm2.core.fasta import read_fasta

    return read_fasta(_as_file(data, folder, "a.fasta"))


def _load_configuration(data: bytes, folder: Path) -> object:
    from dplm2.settings import load

    return load([_as_file(data, folder, "config.yaml")], [ROOT / "config"])


def _read_problem(data: bytes, folder: Path) -> object:
    from dplm2.generation.contigs import read_problem

    return read_problem(_as_file(data, folder, "problem.yaml"))


def _read_official(data: bytes, folder: Path) -> object:
    from dplm2.tokenizer.importing import read_official_config

    return read_official_config(_as_file(data, folder, "official.yaml"))


def _find_clusters(data: bytes, folder: Path) -> object:
    from dplm2.settings.dataset import DatasetSettings
    from dplm2.structures.clusters import find_clusters

    path = _as_file(data, folder, "clusters.csv")
    names = [f"1abc_{number}" for number in range(60)]
    settings = DatasetSettings.make(files="-", clusters={"source": "file", "file": str(path)})
    return find_clusters(names, names, [PROTEIN] * 60, settings.clusters, 1)


def _read_labels(data: bytes, folder: Path) -> object:
    from dplm2.representations.tasks import read_task

    return read_task(_as_file(data, folder, "labels.csv"), "classification")


def _read_residues(data: bytes, folder: Path) -> object:
    from dplm2.generation.residue_tables import read_residue_table

    return read_residue_table(_as_file(data, folder, "residues.csv"))


def _read_metrics(data: bytes, folder: Path) -> None:
    from dplm2.training.log import MetricLog

    MetricLog(_as_file(data, folder, "metrics.csv"), folder / "published.csv", 1000).last()


def _read_manifest(data: bytes, folder: Path) -> object:
    from dplm2.structures.manifest import read_manifest

    return read_manifest(_as_file(data, folder, "part-00000.tsv"))


def _read_chains(data: bytes, folder: Path) -> object:
    from dplm2.structures.store import backbones, read_chains

    return backbones(read_chains(_as_file(data, folder, "chains/part-00000.parquet")))


def _read_tokens(data: bytes, folder: Path) -> object:
    from dplm2.language.vocabulary import Vocabulary
    from dplm2.settings.model import DiffusionSettings
    from dplm2.tokenizer.tokens import read_tokens

    table = read_tokens(_as_file(data, folder, "tokens/part-00000.parquet"))
    return TokenizedChains(table, Vocabulary(16), DiffusionSettings.make()) if len(table) else None


def _read_samples(data: bytes, folder: Path) -> object:
    from dplm2.evaluation.samples import read_samples

    return read_samples(_as_file(data, folder, "samples.parquet"))


def _weights_reader(sound: Path) -> Reader:
    def read(data: bytes, folder: Path) -> object:
        broken = folder / f"broken-{sound.name}"
        _as_file((sound / "config.json").read_bytes(), broken, "config.json")
        _as_file(data, broken, "model.safetensors")
        return _open(sound.name, broken)

    return read


def _config_reader(sound: Path) -> Reader:
    def read(data: bytes, folder: Path) -> object:
        broken = folder / f"config-{sound.name}"
        _as_file(data, broken, "config.json")
        _as_file((sound / "model.safetensors").read_bytes(), broken, "model.safetensors")
        return _open(sound.name, broken)

    return read


def _open(kind: str, folder: Path) -> object:
    from dplm2.language.network import MultimodalEsm
    from dplm2.tokenizer.model import StructureTokenizer

    return (StructureTokenizer if kind == "tokenizer" else MultimodalEsm).from_pretrained(folder)


def _read_record(data: bytes, folder: Path) -> object:
    from dplm2.core.artifacts import RUN_FILE, RunRecord, read_json_object

    results = folder / "results"
    path = _as_file(data, results, RUN_FILE)
    record = read_json_object(path)
    RunRecord("generate", {}, {}).supersede(results)
    return json.dumps(record)
