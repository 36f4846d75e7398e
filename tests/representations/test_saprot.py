"""SaProt's data, in small files made in its format, and the paper's table beside ours."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.representations.saprot import BENCHMARKS, amino_acids
from dplm2.representations.structure_files import with_structures
from dplm2.representations.tasks import read_task
from dplm2.settings.representations import NINE, TASKS, RepresentationSettings

lmdb = pytest.importorskip("lmdb")
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def write(folder, entries):
    """A database as SaProt's program reads it."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 20) as database, database.begin(write=True) as writing:
        writing.put(b"length", str(len(entries)).encode())
        for number, entry in enumerate(entries):
            writing.put(str(number).encode(), json.dumps(entry).encode())


def write_task(folder, entries, inner="foldseek"):
    for name, own in zip(("train", "valid", "test"), entries, strict=True):
        write(folder / inner / name, own)
    return folder


def aware(sequence):
    """A structure-aware sequence, in which every third structure letter is masked."""
    return "".join(f"{letter}{'#' if n % 3 == 2 else 'dvp'[n % 3]}" for n, letter in enumerate(sequence))


def test_structure_letters_are_left_out():
    assert amino_acids("MdEvV#", "x") == amino_acids("MEV", "x") == "MEV"
    assert amino_acids("Md#vVp", "x") == "MXV"
    for wrong in ("MdE", "MDev", "md"):
        with pytest.raises(DPLM2Error, match="neither plain nor of two letters|amino"):
            amino_acids(wrong, "x") if wrong != "md" else amino_acids("mDe", "x")


def test_every_kind_of_entry_is_read(tmp_path):
    of = [[{"seq": aware(s), "fitness": f, "name": "q"}] * 2 for s, f in (("MKV", 1.5), ("AC", 2.0), ("GG", -1))]
    task = read_task(write_task(tmp_path / "thermo", of), "thermostability")
    assert task.kind == "regression" and task.labels == [1.5, 1.5, 2.0, 2.0, -1, -1]
    assert task.rows["sequence"].tolist() == ["MKV", "MKV", "AC", "AC", "GG", "GG"]
    assert task.rows["id"].tolist() == ["q", "q~2", "q~3", "q~4", "q~5", "q~6"]
    assert task.splits.tolist() == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    of = [[{"seq_1": "MK", "seq_2": aware("VV"), "label": n}] for n in (0, 1, 1)]
    task = read_task(write_task(tmp_path / "ppi", of, ""), "human-ppi")
    assert task.is_of_pairs and task.labels == ["0", "1", "1"] and task.rows["sequence_2"].tolist() == ["VV"] * 3
    of = [[{"seq": "MK", "label": json.dumps(flags)}] for flags in ([0, 1, 1], [0, 0, 0], [1, 0, 0])]
    task = read_task(write_task(tmp_path / "ec", of, "normal"), "ec")
    assert task.kind == "multi-label" and task.labels == [("1", "2"), (), ("0",)]


@pytest.mark.parametrize(
    ("entry", "name", "message"),
    [
        ({"seq": "MK"}, "thermostability", "entry 0: no fitness; there: seq"),
        ({"seq": "MK", "fitness": "warm"}, "thermostability", "the label 'warm' is not a number"),
        ({"seq": "MK", "label": 0.5}, "deeploc-binary", "the label '0.5' is no number of a class"),
        ({"seq": "MK", "label": [2]}, "ec", "the label is no list of 0 and 1"),
        ({"seq": "M", "label": 1}, "human-ppi", "no seq_1"),
        ({"seq": 3, "label": 1}, "deeploc-binary", "seq is no text"),
        ([1], "ec", "not an object"),
    ],
)
def test_unusable_entries_are_one_clear_line(tmp_path, entry, name, message):
    folder = write_task(tmp_path / "task", [[entry]] * 3)
    with pytest.raises(DPLM2Error) as error:
        read_task(folder, name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_and_damaged_databases(tmp_path):
    with pytest.raises(DPLM2Error, match="no train/data.mdb; SaProt's data has the folders train, valid and test"):
        read_task(tmp_path, "ec")
    with pytest.raises(DPLM2Error, match="choose its task: thermostability, human-ppi"):
        read_task(tmp_path, "regression")
    folder = write_task(tmp_path / "task", [[{"seq": "MK", "label": 1}]] * 3)
    shutil.rmtree(folder / "foldseek" / "test")
    with pytest.raises(DPLM2Error, match=r"test: no data\.mdb"):
        read_task(folder, "deeploc-binary")
    (folder / "foldseek" / "test").mkdir()
    (folder / "foldseek" / "test" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DPLM2Error, match="cannot be read as SaProt's data"):
        read_task(folder, "deeploc-binary")


def test_structures_are_found_by_name(tmp_path):
    of = [[{"seq": "MK", "fitness": 1.0, "name": name}] for name in ("P1", "1abc_A", "P1")]
    task = read_task(write_task(tmp_path / "task", of), "thermostability")
    (tmp_path / "pdb" / "deep").mkdir(parents=True)
    (tmp_path / "pdb" / "AF-P1-F1-model_v4.cif.gz").touch()
    with pytest.raises(DPLM2Error, match=r"no structure file of '1abc_A' \(1 missing\)"):
        with_structures(task, tmp_path / "pdb")
    (tmp_path / "pdb" / "deep" / "1abc_A.pdb").touch()
    found = with_structures(task, tmp_path / "pdb").rows["structure"].tolist()
    assert [path.rpartition("/")[2] for path in found] == [
        "AF-P1-F1-model_v4.cif.gz", "1abc_A.pdb", "AF-P1-F1-model_v4.cif.gz",
    ]  # fmt: skip


def test_the_papers_table_beside_ours(folders, tmp_path, capsys):
    pytest.importorskip("sklearn")
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list(LETTERS), 12)) for _ in range(60)]
    entries = [{"seq": aware(s), "fitness": float(s.count("A"))} for s in sequences]
    write_task(tmp_path / "thermo", [entries[:30], entries[30:45], entries[45:]])
    entries = [{"seq": s, "label": [int(letter in s) for letter in "ACW"]} for s in sequences]
    write_task(tmp_path / "ec", [entries[:30], entries[30:45], entries[45:]])
    for name, task in (("thermo", "thermostability"), ("ec", "ec")):
        given = ["probe", str(tmp_path / name), "--task", task, "--model", str(folders / "model"), "--device", "cpu"]
        assert main([*given, "--model-name", "mine", "--out", str(tmp_path / f"{name}-out")]) == 0
    out = tmp_path / "table"
    folders_of_ours = [str(tmp_path / "thermo-out"), str(tmp_path / "ec-out")]
    assert main(["compare-probes", *folders_of_ours, "--out", str(out)]) == 0
    table = pd.read_csv(out / "table.csv").set_index("model")
    assert list(table) == ["probe", "source", "thermostability (spearman)", "ec (fmax)"]
    # DPLM-2, table 6.
    assert table.loc["DPLM-2 650M"].tolist()[2:] == [0.714, 0.878]
    assert table.loc["SaProt 650M (quoted)"].tolist()[2:] == [0.724, 0.884]
    assert table.index[-1] == "mine" and table["source"].iloc[-1] == "this run"
    summary = pd.read_csv(tmp_path / "ec-out" / "summary.csv").set_index(["dataset", "metric"])
    assert table.loc["mine", "ec (fmax)"] == pytest.approx(summary["value"]["ec/test", "fmax"])
    pd.read_csv(tmp_path / "ec-out" / "summary.csv").assign(dataset="own/test").to_csv(
        tmp_path / "ec-out" / "summary.csv"
    )
    assert main(["compare-probes", folders_of_ours[1], "--out", str(tmp_path / "no")]) == 1
    assert "not a probe of one of the nine tasks" in capsys.readouterr().err


def test_declared_tasks_are_those_that_are_read():
    from dplm2.evaluation.published import published
    from dplm2.representations.tasks import KINDS

    assert tuple(BENCHMARKS) == NINE and (*NINE, *KINDS) == TASKS
    values = {row["metric"]: row["value"] for row in published() if row["model"] == "DPLM-2 650M"}
    assert len({values[benchmark.published] for benchmark in BENCHMARKS.values()}) == 9
    chosen = RepresentationSettings.make(task="ec", data="x", probe="lora", seeds=[1, 2])
    assert chosen.arguments()[-3:] == ["--seeds", "1", "2"]
