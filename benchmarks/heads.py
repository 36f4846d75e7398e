"""Cost of the structure heads, and learning curves of models with them.

    python -m benchmarks.heads speed --size small 150M --out benchmarks/results/heads-speed.json
    python -m benchmarks.heads learn --heads codes bits pairs --steps 6000 --data corpus --tokenizer small \\
        --work work/heads --out benchmarks/results/heads.json
    python -m benchmarks.heads learn ... --projected --out benchmarks/results/heads-13-signs.json

``speed`` measures the median time of a training step (forward, backward, AdamW) with each head, each in a separate
process, and that of the head alone. ``--clock cpu`` measures CPU time, for machines with other users. ``learn`` trains
networks that differ only in their head on the same batches, and writes their cross-entropies (nats) on the test chains
during training. It resumes after an interruption or with another head; finished results are kept. DATA is a folder with
``train``, optionally ``more``, and ``cameo2022`` (structure files or archives of them); these are first cleaned and
tokenized into WORK.

``--projected`` replaces the tokenizer's quantizer by signs: its encoder's features are whitened, randomly rotated and
centred on their medians, and the signs of 13 of them are a code. Each bit carries structural information, without
training a tokenizer.
"""

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.train_step import SIZES, make_batch
from dplm2.cli import main as dplm2
from dplm2.core.artifacts import fingerprint, library_versions, peak_memory_bytes, read_json, write_json
from dplm2.core.errors import ConfigError, Preempted
from dplm2.language import diffusion, heads, likelihood, warmup
from dplm2.language.chains import TokenizedChains
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.stages import freeze_unread
from dplm2.language.training import MultimodalTask
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.model import DiffusionSettings, NetworkSettings
from dplm2.settings.training import TrainingSettings
from dplm2.structures.store import backbones
from dplm2.tokenizer.model import StructureTokenizer, pad_backbones
from dplm2.tokenizer.tokens import parts_of, read_tokens
from dplm2.training.loop import fit

SMALL_TOKENIZER = Path(__file__).parents[1] / "dplm2" / "assets" / "small_tokenizer"
SMALL = (128, 4, 4, 512)  # width, layers, heads, feed-forward width
LAYOUT = (5, 4, 4)
BITS = 13
WARM_UP = 2  # steps that set everything up
CHAINS_PROJECTED = 300  # by whose features the projections are centred
KEEP_ALL = {"min_length": None, "max_length": None, "min_observed_fraction": None, "max_unknown_fraction": None}
VALIDATION = "validation_cross_entropy_"


# Cost ---------------------------------------------------------------------------------------------------------------


def speed_of(head: str, size: str, options: argparse.Namespace) -> dict:
    """Seconds and memory of a training step, and seconds of only the head, in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    vocabulary, sizes = Vocabulary(), SMALL if size == "small" else SIZES[size]
    made = heads.make(head, vocabulary, sizes[0], LAYOUT)
    network = MultimodalEsm(Esm2(Esm2Config(made.table_rows, *sizes)), vocabulary, head=made)
    freeze_unread(network)
    before = peak_memory_bytes()
    objective = diffusion.DiffusionObjective(network, DiffusionSettings.make()).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4, fused=True)
    batch = make_batch(vocabulary, options.chains, options.residues)

    def step() -> None:
        objective(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    scored = batch["noised"] & network.is_scored(batch["target_ids"], "structure")
    hidden_ND = torch.randn(int(scored.sum()), sizes[0], requires_grad=True)
    ids_N = batch["target_ids"][scored]

    def head_alone() -> None:
        network.nll(hidden_ND, ids_N, "structure").mean().backward()

    seconds = median_seconds(step, options)
    peak = peak_memory_bytes()
    return {
        "head": head,
        "size": size,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "structure_positions_scored": len(ids_N),
        "seconds_per_step": seconds,
        "seconds_loss_of_structure_forward_and_backward": median_seconds(head_alone, options),
        "peak_gigabytes": round(peak / 1e9, 3),
        "peak_gigabytes_above_the_network": round((peak - before) / 1e9, 3),
    }


def median_seconds(work: Callable[[], None], options: argparse.Namespace) -> float:
    """Median time of a call."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    seconds = []
    for _ in range(options.repetitions + WARM_UP):
        start = clock()
        work()
        seconds.append(clock() - start)
    return round(statistics.median(seconds[WARM_UP:]), 5)


def speed(options: argparse.Namespace) -> None:
    """Measure each head at each size in a separate process."""
    results = []
    for size in options.size:
        for head in options.heads:
            results.append(json.loads(in_own_process(["speed", "--alone", "--size", size, "--heads", head], options)))
            print(json.dumps(results[-1]), flush=True)
    batch = {"chains": options.chains, "residues": options.residues, "clock": options.clock}
    write_json(options.out, {**surroundings(options), **batch, "results": results})


def in_own_process(first: list[str], options: argparse.Namespace) -> str:
    """Run this program with the same options, except ``first``; returns the last line of its output."""
    chosen = [sys.executable, "-m", "benchmarks.heads", *first]
    for name, value in vars(options).items():
        if name not in ("command", "size", "heads", "alone", "out", "projected") and value is not None:
            chosen += [f"--{name.replace('_', '-')}", str(value)]
    if getattr(options, "projected", False):
        chosen.append("--projected")
    finished = subprocess.run([*chosen, "--out", str(options.out)], stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise SystemExit(finished.returncode)
    return finished.stdout.splitlines()[-1]


def surroundings(options: argparse.Namespace) -> dict:
    """Description of the machine."""
    machine = platform.processor() or platform.machine()
    return {"machine": machine, "threads": options.threads, "versions": library_versions()}


# Learning -----------------------------------------------------------------------------------------------------------


def tokenized(options: argparse.Namespace) -> tuple[Path, dict[str, list[Path]]]:
    """The tokenizer, and the folders of training and test tokens, created if missing."""
    chains = {}
    for name in ("train", "more", "cameo2022"):
        source, folder = Path(options.data) / name, Path(options.work) / "chains" / name
        if not source.exists():
            continue
        if not list(folder.glob("part-*.parquet")):
            filters = KEEP_ALL if name == "cameo2022" else {"min_length": 40, "max_length": 1024}
            settings = json.dumps({"datasets": {name: {"files": str(source), "filters": filters}}})
            run("structures", "clean", source, "--out", folder, "--config", settings)
        chains[name] = folder
    tokenizer = projected(options, chains["train"]) if options.projected else Path(options.tokenizer)
    mark = StructureTokenizer.from_pretrained(tokenizer).fingerprint
    tokens = {name: Path(options.work) / "tokens" / mark / name for name in chains}
    for name, folder in chains.items():
        run("tokens", "encode", folder, "--tokenizer", tokenizer, "--out", tokens[name])
    test = tokens.pop("cameo2022")
    return tokenizer, {"train": list(tokens.values()), "test": [test]}


def run(*arguments) -> None:
    """Run a command of the package."""
    status = dplm2([str(argument) for argument in arguments])
    if status:
        raise SystemExit(status)


def projected(options: argparse.Namespace, chains: Path) -> Path:
    """The tokenizer of the signs of 13 projections."""
    out = Path(options.work) / "tokenizer-projected"
    if (out / "config.json").is_file():
        return out
    given = StructureTokenizer.from_pretrained(options.tokenizer)
    quantizer = given.settings.quantizer.replaced(bits=BITS, bits_per_value=None, hidden=2 * BITS, bound="none")
    torch.manual_seed(0)
    made = StructureTokenizer(given.settings.replaced(quantizer=quantizer)).eval()
    made.encoder.load_state_dict(given.encoder.state_dict())
    rows = pq.read_table(parts_of([chains], "chains")[0]).slice(0, CHAINS_PROJECTED)
    with torch.no_grad():
        features = [encoded(made, backbone) for backbone in backbones(rows)]
        project(made.pre_quant, made.pre_quant[0](torch.cat(features)))
    made.save_pretrained(out)
    return out


def encoded(tokenizer: StructureTokenizer, backbone: np.ndarray) -> torch.Tensor:
    """Features (L, D) of the observed residues of a chain."""
    coords_BLAX, observed_BL, residues_BL = pad_backbones([backbone])
    return tokenizer.encoder(coords_BLAX, observed_BL, residues_BL)[observed_BL]


def project(layers: torch.nn.Sequential, features_ND: torch.Tensor) -> None:
    """Set normalisation, linear layer, ReLU and linear layer to a randomly rotated whitening projection.

    Since ``relu(x) - relu(-x)`` is x, the two layers are a linear map with twice as many channels as outputs.
    """
    centred_ND = features_ND - features_ND.mean(0)
    variances, directions_DD = torch.linalg.eigh(centred_ND.T @ centred_ND / len(centred_ND))
    turn_QQ = torch.nn.init.orthogonal_(torch.empty(BITS, BITS))
    weight_QD = turn_QQ @ (directions_DD[:, -BITS:] / variances[-BITS:].sqrt()).T
    layers[1].weight.copy_(torch.cat([weight_QD, -weight_QD]))
    layers[1].bias.zero_()
    layers[3].weight.copy_(torch.cat([torch.eye(BITS), -torch.eye(BITS)], 1))
    layers[3].bias.copy_(-(features_ND @ weight_QD.T).median(0).values)


def network_of(head: str, tokenizer: StructureTokenizer) -> tuple[MultimodalEsm, str]:
    """A new network, and the initialization of its structure tokens."""
    vocabulary = Vocabulary(tokenizer.codebook_size)
    width, layers, count, wide = SMALL
    model = warmup.random_model(
        NetworkSettings.make(hidden_size=width, layers=layers, heads=count, intermediate_size=wide, attention="near"),
        seed=0,
    )
    warmup.prepare(model, "none", 0.0)
    values, layout = tokenizer.quantizer.code_values(), tokenizer.settings.quantizer.layout
    try:
        made, start = warmup.add_structure_tokens(model, vocabulary, 0, values, head, layout), "code"
    except ConfigError:  # near codes are always similar
        made, start = warmup.add_structure_tokens(model, vocabulary, 0, None, head, layout), "random"
    network = MultimodalEsm(model, vocabulary, head=made)
    freeze_unread(network)
    return network, start


def learn_one(options: argparse.Namespace) -> None:
    """Train with one head in this process; prints the results as JSON."""
    torch.set_num_threads(options.threads)
    tokenizer, folders = tokenized(options)
    tables = {name: read_tokens(paths) for name, paths in folders.items()}
    opened, head = StructureTokenizer.from_pretrained(tokenizer), options.heads[0]
    network, start = network_of(head, opened)
    objective = DiffusionSettings.make(crop_probability=0.0, validation_chains=tables["test"].num_rows)
    chains = {name: TokenizedChains(table, network.vocabulary, objective) for name, table in tables.items()}
    task = MultimodalTask(network, chains["train"], chains["test"], objective)
    settings = TrainingSettings.make(
        steps=options.steps,
        token_budget=options.token_budget,
        optimizer="muon",
        learning_rate=options.learning_rate,
        final_learning_rate=1e-5,
        warmup_steps=min(50, options.steps // 10),
        gradient_clip=1.0,
        validate_every=options.validate_every,
        log_every=options.validate_every,
    )
    decides = [
        head,
        options.steps,
        options.token_budget,
        options.learning_rate,
        opened.fingerprint,
        tables["train"].num_rows,
    ]
    out = Path(options.work) / "models" / f"{head}-{fingerprint(decides)}"
    result = fit(
        task, settings, seed=0, state=Path(options.work) / "state", fingerprint=fingerprint(decides),
        metrics=out / "metrics.csv", device=options.device, label=head,
    )  # fmt: skip
    unigram = likelihood.unigram_baseline(chains["test"])
    write_json(
        out / "result.json",
        {
            "head": head,
            "start": start,
            "steps": result.steps,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "seconds_per_step": round(result.seconds / result.steps, 4),
            "peak_gigabytes": round(peak_memory_bytes() / 1e9, 3),
            "unigram": {track: value for track, (value, _) in unigram.items()},
            "train_chains": tables["train"].num_rows,
            "test_chains": tables["test"].num_rows,
            "curve": curve_of(out / "metrics.csv"),
        },
    )
    print(json.dumps(str(out / "result.json")))


def curve_of(metrics: Path) -> list[dict[str, float]]:
    """Cross-entropies on the test chains by step."""
    with metrics.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get(f"{VALIDATION}structure")]
    return [
        {"step": int(row["step"])}
        | {name.removeprefix(VALIDATION): float(value) for name, value in row.items() if name.startswith(VALIDATION)}
        for row in rows
    ]


def learn(options: argparse.Namespace) -> None:
    """Train with each head in turn; finished results are written before an interruption."""
    results = []
    for head in options.heads:
        path = json.loads(in_own_process(["learn", "--alone", "--heads", head], options))
        results.append(read_json(Path(path)))
        write_json(
            options.out, {**surroundings(options), "tokenizer": described(options), "results": compared(results)}
        )
        print(json.dumps({key: value for key, value in results[-1].items() if key != "curve"}), flush=True)


def described(options: argparse.Namespace) -> str:
    """Description of the codes."""
    name = Path(options.tokenizer).name
    return f"signs of {BITS} random projections of the whitened features of {name}" if options.projected else name


def compared(results: list[dict]) -> list[dict]:
    """Results with the final values, and the step at which each head reached the final value of ``codes``."""
    final = {result["head"]: result["curve"][-1] for result in results if result["curve"]}
    target = final.get(heads.DEFAULT)
    for result in results:
        result["final"] = final.get(result["head"])
        if target is None:
            continue
        result[f"steps_to_the_final_value_of_{heads.DEFAULT}"] = {
            name: next((point["step"] for point in result["curve"] if point[name] <= value), None)
            for name, value in target.items()
            if name != "step"
        }
    return results


def main() -> None:
    """Measure or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("speed", "learn"):
        command = commands.add_parser(name)
        command.add_argument("--heads", nargs="+", choices=heads.HEADS, default=list(heads.HEADS))
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    speed_parser, learn_parser = commands.choices["speed"], commands.choices["learn"]
    speed_parser.add_argument("--size", nargs="+", choices=["small", *SIZES], default=["small"])
    speed_parser.add_argument("--chains", type=int, default=4)
    speed_parser.add_argument("--residues", type=int, default=256)
    speed_parser.add_argument("--repetitions", type=int, default=7)
    speed_parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    learn_parser.add_argument("--data", type=Path, required=True, help="folder with train, cameo2022, perhaps more")
    learn_parser.add_argument("--work", type=Path, required=True, help="folder for chains, tokens and training state")
    learn_parser.add_argument("--tokenizer", type=Path, default=SMALL_TOKENIZER)
    learn_parser.add_argument("--projected", action="store_true", help="sign bits of random projections instead")
    learn_parser.add_argument("--steps", type=int, default=6000)
    learn_parser.add_argument("--token-budget", type=int, default=3000)
    learn_parser.add_argument("--learning-rate", type=float, default=2e-3)
    learn_parser.add_argument("--validate-every", type=int, default=250)
    learn_parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if not options.alone:
        {"speed": speed, "learn": learn}[options.command](options)
    elif options.command == "speed":
        print(json.dumps(speed_of(options.heads[0], options.size[0], options)))
    else:
        try:
            learn_one(options)
        except Preempted as stopped:
            print(stopped, file=sys.stderr)
            raise SystemExit(75) from stopped


if __name__ == "__main__":
    main()
