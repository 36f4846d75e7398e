"""Settings of the process, and imports without side effects."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dplm2
from dplm2.language.network import MultimodalEsm

DENORMALS = """
import torch
from dplm2.cpu.process import prepare_process
torch.set_num_threads(2)
prepare_process()
tiny = torch.full((1 << 20,), 1e-39)
print(int((tiny * 1.0).count_nonzero()))
"""
IMPORTING = """
import importlib, json, os, sys

def state():
    import torch
    return {
        "denormal": int((torch.full((4,), 1e-39) * 1.0).count_nonzero()),
        "environment": sorted(os.environ.items()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "precision": [torch.get_float32_matmul_precision(), str(torch.get_default_dtype())],
        "cuda": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "one_dnn": torch.backends.mkldnn.enabled,
        "gradients": torch.is_grad_enabled(),
        "seed": torch.initial_seed(),
        "hooks": [len(sys.meta_path), len(sys.path_hooks)],
    }

for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
before = state()
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
after = state()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""
LIBRARIES = [
    *("biotite.structure.io.pdbx", "lightning_fabric", "matplotlib.pyplot", "pandas", "peft", "pyarrow.parquet"),
    *(
        "pydantic",
        "safetensors.torch",
        "scipy.spatial",
        "torch",
        "transformers.models.esm.modeling_esmfold",
    ),
]


def outcome(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def modules() -> list[str]:
    """All modules of the package, except the one that runs the command."""
    root = Path(dplm2.__file__).parent
    paths = [path.relative_to(root.parent).with_suffix("") for path in sorted(root.rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if name != "dplm2.__main__"]


def test_denormals_are_flushed_to_zero_in_every_thread():
    """Denormals in the optimiser's averages of rare tokens' gradients made steps up to three times slower."""
    assert outcome(DENORMALS) == "0"


def test_importing_does_not_change_the_process():
    """Libraries, which may have side effects, are imported before."""
    assert len(modules()) > 100
    assert json.loads(outcome(IMPORTING, json.dumps(LIBRARIES), json.dumps(modules()))) == {}


def test_openmp_waits_passively_unless_set_by_the_user():
    program = """
import os, sys
from dplm2.cpu.process import prepare_process
prepare_process()
print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""
    assert outcome("import os; os.environ.pop('OMP_WAIT_POLICY', None)" + program) == "PASSIVE False"
    assert outcome("import os; os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'" + program) == "ACTIVE False"


def test_networks_and_tokenizers_prepare_their_process(monkeypatch):
    for name in ("dplm2.generation.model", "dplm2.tokenizer.model", "dplm2.language.network"):
        monkeypatch.setattr(f"{name}.prepare_process", _stop)
    for opened in (dplm2.DPLM2, dplm2.StructureTokenizer, MultimodalEsm):
        with pytest.raises(Prepared):
            opened.from_pretrained("nowhere")


class Prepared(Exception):
    """Raised instead of preparing."""


def _stop() -> None:
    raise Prepared


def test_the_package_is_imported_without_torch():
    program = (
        "import sys, dplm2, dplm2.cli, dplm2.cpu.process; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert outcome(program) == "[]"
