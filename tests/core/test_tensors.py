"""A flipped byte in a weights file is detected; files of other programs are accepted."""

import random
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from dplm2.core.errors import DPLM2Error
from dplm2.core.tensors import KEY, check_tensors, save_tensors

TENSORS = {"one": torch.arange(60.0), "other": torch.ones(3, 5)}


def test_flipped_bit_is_detected_or_has_no_effect(tmp_path):
    file = tmp_path / "model.safetensors"
    save_tensors(file, TENSORS)
    check_tensors(file)
    sound, draw, same = file.read_bytes(), random.Random(0), 0
    for place in range(len(sound)):
        broken = bytearray(sound)
        broken[place] ^= 1 << draw.randrange(8)
        file.write_bytes(broken)
        try:
            check_tensors(file)
            found = load_file(file)
        except (DPLM2Error, SafetensorError):
            continue
        # The digest's own name: a file without one.
        same += 1
        assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in TENSORS.items()}
    assert same < 30


def test_error_suggests_a_remedy(tmp_path):
    file = tmp_path / "model.safetensors"
    save_tensors(file, TENSORS)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DPLM2Error, match=r"model\.safetensors: damaged.*restore the file from a copy"):
        check_tensors(file)


def test_files_of_other_programs_are_accepted(tmp_path):
    save_file(TENSORS, tmp_path / "foreign.safetensors", {"format": "pt"})
    check_tensors(tmp_path / "foreign.safetensors")


def test_other_programs_open_our_files(tmp_path):
    save_tensors(tmp_path / "model.safetensors", TENSORS)
    with safe_open(tmp_path / "model.safetensors", "pt") as stream:
        metadata = stream.metadata()
    assert metadata.pop(KEY)
    assert metadata == {"format": "pt"}


def test_equal_weights_give_equal_bytes_in_any_process(tmp_path):
    code = (
        "import sys, torch; from dplm2.core.tensors import save_tensors;"
        "save_tensors(sys.argv[1], {'one': torch.arange(60.0), 'other': torch.ones(3, 5)})"
    )
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert files[0].read_bytes() == files[1].read_bytes()
