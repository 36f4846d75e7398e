"""Reading configurations: YAML, Snakemake's command line, several sources, invalid files."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dplm2.core.errors import ConfigError
from dplm2.settings import load
from dplm2.settings.loading import MAX_BYTES
from dplm2.settings.roles import plain
from tests.settings.example import WHOLE

SECONDS = 5.0  # a machine at work


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "config.yaml"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def training(path: Path, key: str, text: str):
    source = written(path, f"tokenizers: {{t: {{training: {{{key}: {text}}}}}}}")
    return getattr(load(source).tokenizers["t"].training, key)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".1e-3", "'1e-4'", "+1e-4"])
def test_numbers_with_exponents_are_parsed(path, text):
    assert training(path, "learning_rate", text) == 1e-4


@pytest.mark.parametrize("text", ["100000", "1e5", "1E5", "100000.0", "'100000'", "1_00_000"])
def test_integers_are_parsed(path, text):
    steps = training(path, "steps", text)
    assert steps == 100_000 and type(steps) is int


@pytest.mark.parametrize("text", ["null", "~", "", "'null'"])
def test_null_values_are_parsed(path, text):
    assert training(path, "gradient_clip", text) is None


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("yes", True), ("'false'", False), ("no", False), ("OFF", False)]
)
def test_booleans_are_parsed(path, text, value):
    assert training(path, "compile", text) is value


def test_off_remains_text_and_on_is_refused(path):
    source = written(path, "models: {m: {tokenizer: t, diffusion: {self_mixup: off}}}")
    assert load(source).models["m"].diffusion.self_mixup == "off"
    with pytest.raises(ConfigError, match=r"self_mixup: True: must be a number or text|self_mixup: .*must be one of"):
        load(written(path, "models: {m: {tokenizer: t, diffusion: {self_mixup: on}}}"))


def test_text_is_converted_to_the_keys_type():
    """Snakemake passes every inner value of ``--config 'key={inner: 5}'`` as text."""
    given = {
        "seed": "7",
        "datasets": {
            "1": {"files": "5", "filters": {"max_length": "null", "deduplicate": "false", "max_coil": "5e-1"}}
        },
        "generation": {"g": {"task": "co-generation", "lengths": ["50", "60"], "samples": "2", "fixed": None}},
        "tokenizers": {"t": {"datasets": ["1"], "training": {"betas": ["0.9", "0.95"], "devices": "auto"}}},
        "models": {"m": {"tokenizer": "t", "training": {"devices": "2", "accumulate": "4"}}},
        "evaluation": {"designable_sc_tm": ["0.5", "75e-2"], "self": {"steps": "9"}},
        "report": {"title": "5", "note": "null"},
    }
    read = load(given)
    dataset, tokenizer = read.datasets["1"], read.tokenizers["t"]
    assert read.seed == 7
    assert dataset.files == "5"
    assert (dataset.filters.max_length, dataset.filters.deduplicate, dataset.filters.max_coil) == (None, False, 0.5)
    assert (read.generation["g"].lengths, read.generation["g"].samples) == ((50, 60), 2)
    assert (tokenizer.training.betas, tokenizer.training.devices) == ((0.9, 0.95), "auto")
    assert (read.models["m"].training.devices, read.models["m"].training.accumulate) == (2, 4)
    assert (read.evaluation.designable_sc_tm, read.evaluation.self.steps) == ((0.5, 0.75), 9)
    assert (read.report.title, read.report.note) == ("5", "null")


def test_residues_may_be_an_integer(path):
    source = written(path, "generation: {g: {task: infilling, mask_sequence: 5, mask_structure: all}}")
    assert (load(source).generation["g"].mask_sequence, load(source).generation["g"].mask_structure) == ("5", "all")


def test_file_text_and_mapping_are_equivalent(path):
    written(path, json.dumps(WHOLE))
    assert load(path) == load(str(path)) == load(json.dumps(WHOLE)) == load(WHOLE) == load([path])


def test_completed_configuration_survives_a_round_trip():
    whole = load(WHOLE)
    assert load(plain(whole)) == load(json.dumps(plain(whole))) == whole


def test_later_sources_override_earlier_ones_key_by_key(path):
    lower = written(
        path, "seed: 1\ntokenizers: {t: {datasets: [a, b], training: {steps: 5, keep: 3}}, u: {datasets: [a]}}"
    )
    upper = {"tokenizers": {"t": {"datasets": ["c"], "training": {"steps": 6}}}}
    merged = load([lower, upper, '{"seed": 2}'])
    assert merged.seed == 2 and set(merged.tokenizers) == {"t", "u"}
    assert merged.tokenizers["t"].datasets == ("c",)
    assert (merged.tokenizers["t"].training.steps, merged.tokenizers["t"].training.keep) == (6, 3)
    assert load([lower, {"tokenizers": {"u": None}}]).tokenizers.keys() == {"t"}
    with pytest.raises(ConfigError, match="tokenizers.t.training: 5: must be a mapping of keys to values"):
        load([lower, {"tokenizers": {"t": {"training": 5}}}])


def test_file_may_extend_another(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    written(tmp_path / "deep" / "base.yaml", "seed: 1\nthreads: 7\ndatasets: {a: {files: x}, b: {files: y}}")
    upper = written(tmp_path / "deep" / "upper.yaml", "base: base.yaml\nseed: 2\ndatasets: {b: null}")
    whole = load(upper)
    assert (whole.seed, whole.threads, set(whole.datasets)) == (2, 7, {"a"})
    with pytest.raises(ConfigError, match=r"base: 'nowhere.yaml': no such file"):
        load(written(tmp_path / "x.yaml", "base: nowhere.yaml"))
    with pytest.raises(ConfigError, match="base: 5: no such file"):
        load(written(tmp_path / "x.yaml", "base: 5"))
    with pytest.raises(ConfigError, match="base: a chain of more than 5 files"):
        load(written(tmp_path / "x.yaml", "base: x.yaml"))


def test_aliases_and_merge_keys_are_supported(path):
    text = (
        "tokenizers:\n  a: {training: &t {steps: 5, keep: 4}}\n  b: {training: {<<: *t, steps: 6}}\n  c: {training: *t}"
    )
    read = load(written(path, text)).tokenizers
    assert [(read[name].training.steps, read[name].training.keep) for name in "abc"] == [(5, 4), (6, 4), (5, 4)]


def test_byte_order_mark_is_accepted(path):
    assert load(written(path, b"\xef\xbb\xbfseed: 3\n")).seed == 3


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "aliases expand to .* values; the maximum is 200,000"),
        (BOMB.replace("[", "{").replace("]", "}"), "not YAML"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "nested more than 40 levels deep"),
        ("a: " + "[" * 10_000, "nested more than 40 levels deep"),
        ("{a: " * 10_000 + "}" * 10_000, "nested more than 40 levels deep"),
        ("{" + '"a": {' * 10_000 + "}" * 10_001, "nested more than 40 levels deep"),
        ("- " * 10_000 + "a", "nested more than 40 levels deep"),
        ("".join(" " * depth + "a:\n" for depth in range(500)), "nested more than 40 levels deep"),
        ("a: &a [*a]", "nested more than 40 levels deep"),
        ("&a a: *b", "undefined alias|not YAML"),
        ("seed: 1\nseed: 2", "line 2: the key 'seed' is given twice"),
        ("report: {title: a, note: b, title: c}", "the key 'title' is given twice"),
        ("a: [", "not YAML"),
        ("a: b: c", "not YAML"),
        ("\tseed: 1", "not YAML"),
        ("seed: !!python/object/apply:os.system ['true']", "not YAML"),
        ("? [1, 2]\n: 3", "not YAML"),
        ("seed: 1\n---\nseed: 2", "not YAML"),
        ("seed: 2001-99-99", "not YAML"),
        ("seed: " + "9" * 5000, "not YAML"),
        ("- a", "must be a mapping of keys to values"),
        ("just words", "must be a mapping of keys to values"),
        ("", "must be a mapping of keys to values"),
        (bytes(range(256)) * 20, "cannot be read"),
        ("seed: 1".encode("utf-16"), "cannot be read"),
        (b"seed: \x001", "not YAML"),
        (b"x: " + b"a" * MAX_BYTES, "larger than 4 MiB, the maximum for a configuration"),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) < 60 else "content",
)
def test_invalid_files_raise_a_one_line_error_quickly(path, content, message):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        load(written(path, content))
    assert time.monotonic() - start < SECONDS
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < len(str(path)) + 400


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_does_not_crash_the_process(path, opening):
    """In a separate process: composing a million levels is a crash, not an exception."""
    count = min(1_000_000, (MAX_BYTES - 100) // len(opening))
    written(path, "a: " * (opening != "- ") + opening * count)
    script = "import sys; from dplm2.settings import load; load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ConfigError" in done.stderr and "nested more than 40 levels deep" in done.stderr


@pytest.mark.parametrize("source", ["nowhere.yaml", "/", "a\0b", "x" * 5000])
def test_unreadable_files_are_named(source):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(source)
    assert source[:100] in str(caught.value)


def test_deeply_nested_mappings_are_refused():
    value = "x"
    for _ in range(5000):
        value = [value]
    for deep in (value, {"x": value}):
        with pytest.raises(ConfigError, match="nested more than 40 levels deep"):
            load({"report": {"title": deep}})


def test_nan_is_refused(path):
    for text in (".nan", ".inf", "-.inf"):
        with pytest.raises(ConfigError, match="learning_rate: "):
            training(path, "learning_rate", text)
    assert math.isfinite(training(path, "learning_rate", "1e300"))
