"""A dataset of structure tokens from the hub, through the workflow, with a local server of the hub's protocol."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dplm2.structures.store import SELECTION_FILE
from dplm2.tokenizer.tokens import read_tokens
from tests import hub as local
from tests.structures.test_tokenized import COLUMNS, rows

ROOT = Path(__file__).parents[2]
NAME = "airkingbd/pdb_swissprot"


def parquet(table: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), buffer)
    return buffer.getvalue()


@pytest.fixture
def server():
    with local.running_hub() as running:
        tables = {f"train/{number}.parquet": parquet([row]) for number, row in enumerate(rows())}
        running.repositories[f"datasets/{NAME}"] = local.Repository({"README.md": b"", **tables, "valid/0.csv": b""})
        yield running


def test_authors_tokens_are_downloaded_once_and_pinned(server, tmp_path):
    hub = {"repository": NAME, "files": "train/*", "tokenizer": "small", "columns": COLUMNS}
    configuration = {
        "datasets": {"authors": {"hub": hub, "shards": 2}},
        "tokenizers": {"small": {"pretrained": "small"}},
        "models": {"m": {"tokenizer": "small", "datasets": ["authors"], "warmup": {"source": "facebook/esm2"}}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration))
    targets = ["results/tokens/small/authors/part-00000.parquet", "results/tokens/small/authors/part-00001.parquet"]
    targets.append(f"results/structures/authors/{SELECTION_FILE}")

    def run(offline: bool) -> subprocess.CompletedProcess:
        command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2"]
        environment = server.environment(tmp_path / "hf", offline) | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, *targets], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    finished = run(offline=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    parts = [tmp_path / target for target in targets[:2]]
    table = read_tokens(parts, selections=[tmp_path / targets[2]])
    found = dict(zip(table["chain_id"].to_pylist(), table["structure_tokens"].to_pylist(), strict=True))
    assert found == {row["pdb_name"]: [int(token) for token in row["struct_seq"].split(",")] for row in rows()}
    commit = server.repositories[f"datasets/{NAME}"].head
    assert json.loads((tmp_path / "results/structures/authors/run.json").read_text())["hub"] == {NAME: commit}
    assert not any("valid" in request for request in server.downloads)
    before = [path.read_bytes() for path in parts]
    # Without a connection, the same bytes come from the hub's cache.
    for path in (*parts, tmp_path / "results/downloads/authors/part-00000.tsv"):
        path.unlink()
    server.stop()
    finished = run(offline=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert [path.read_bytes() for path in parts] == before
