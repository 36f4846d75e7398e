"""The two stages of the language model, from files to files: warm-up and multimodal training."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dplm2.core.artifacts import RunRecord, fingerprint, sha256_of_file, write_text
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.inputs import hash_of
from dplm2.language import heads, lora, warmup
from dplm2.language.chains import TokenizedChains, clusters_of
from dplm2.language.model_folder import WEIGHTS_FILE
from dplm2.language.network import MultimodalEsm
from dplm2.language.sequences import SequenceStore, digests_of
from dplm2.language.training import MultimodalTask, SequenceTask
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.hub import SequenceHub
from dplm2.settings.model import SCRATCH, ModelSettings, WarmupSettings, sequence_diffusion
from dplm2.settings.roles import plain
from dplm2.settings.trainings import MODEL, SEQUENCE_STAGE, what_decides
from dplm2.structures.tokenized import download_tables
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.tokenizer.tokens import parts_of, read_tokens
from dplm2.training.loop import FitResult, fit

METRICS_FILE = "metrics.csv"
_SOURCE = "source:"


def warm_up(
    tokens: Sequence[Path],
    tokenizer: Path,
    out: Path,
    state: Path,
    settings: ModelSettings,
    *,
    selections: Sequence[Path] = (),
    seed: int,
    device: str,
) -> None:
    """Write the initial model of multimodal training (paper section 3.1).

    Parameters
    ----------
    tokens
        Folders of tokens; the sequence stage trains on their sequences unless the settings name sequence files.
    tokenizer
        Folder of the model's structure tokenizer.
    out
        Folder to write.
    state
        Folder of resumable training state.
    settings
        Settings of the model.
    selections
        ``selection.parquet`` of the datasets.
    seed
        Seed of all random choices.
    device
        Device of the sequence stage: ``cpu``, ``cuda`` or ``mps``.

    Raises
    ------
    DPLM2Error
        If the tokens are from another tokenizer, or the source cannot be used.
    """
    warmup.check_network(settings.warmup.source, settings.network)
    table = read_tokens(list(tokens), selections=list(selections) or None)
    tokens_fingerprint, codebook_size = tokenizer_of(table)
    opened = StructureTokenizer.from_pretrained(tokenizer)
    if opened.codes_fingerprint != tokens_fingerprint:
        raise DPLM2Error(
            f"the tokens are from tokenizer {tokens_fingerprint}, "
            f"but {tokenizer} is tokenizer {opened.codes_fingerprint}"
        )
    inputs = _inputs(tokens, selections, tokens_fingerprint) | _source_files(settings.warmup.source, state)
    record = RunRecord("model warmup", _resolved(settings, "network", "structure_head", "warmup"), inputs, device)
    source = settings.warmup.source
    model = warmup.random_model(settings.network, seed) if source == SCRATCH else warmup.open_source(source)
    result = None
    if isinstance(model, MultimodalEsm):
        network = model
        _check_multimodal_source(settings, network)
        _check_fits(network, tokens_fingerprint, source)
    else:
        scaling = warmup.resolve_scaling(model, settings.warmup.embedding_scaling)
        warmup.prepare(model, scaling, settings.warmup.dropout)
        vocabulary = Vocabulary(codebook_size)
        network = MultimodalEsm(model, vocabulary, scaling)
        if settings.warmup.trains_on_sequences:
            result = _sequence_stage(network, table, settings, inputs, out, state, seed, device)
            if not result.main:
                return
        values_CV = opened.quantizer.code_values() if settings.warmup.structure_tokens == "code" else None
        network.head = warmup.add_structure_tokens(
            model.cpu(),
            vocabulary,
            seed,
            values_CV,
            settings.structure_head or heads.DEFAULT,
            opened.settings.quantizer.layout,
        )
    network.tokenizer, network.tokenizer_fingerprint = warmup.relative_to(out, tokenizer), tokens_fingerprint
    record.supersede(out)
    if result is None:
        write_text(out / METRICS_FILE, "step\n")  # no sequence stage, hence no rows
    network.save_pretrained(out)
    record.write(out, source=source, **_outcome(result))


def _check_multimodal_source(settings: ModelSettings, network: MultimodalEsm) -> None:
    """Reject settings that apply only to a source without structure tokens."""
    chosen = settings.warmup
    for name, value in (("structure_tokens", "code"), ("sequence_stage", "always")):
        if getattr(chosen, name) == value:
            raise ConfigError(f"warmup.{name}: {value} has no effect, {chosen.source} has structure tokens; omit it")
    if settings.structure_head not in (None, network.head.name):
        raise ConfigError(
            f"structure_head: {settings.structure_head}, but {chosen.source} has the head {network.head.name}; omit it"
        )


def _check_fits(network: MultimodalEsm, tokens_fingerprint: str, source: str) -> None:
    known = network.tokenizer_fingerprint
    if known is not None and known != tokens_fingerprint:
        raise DPLM2Error(
            f"{source} was trained on the codes of tokenizer {known}, "
            f"but the tokens are from tokenizer {tokens_fingerprint}"
        )


def _sequence_stage(
    network: MultimodalEsm,
    table: pa.Table,
    settings: ModelSettings,
    inputs: Mapping[str, str],
    out: Path,
    state: Path,
    seed: int,
    device: str,
) -> FitResult:
    chosen: WarmupSettings = settings.warmup
    rows = splits_of(table)
    parts = {split: part["sequence"].to_pylist() for split, part in rows.items()}
    if chosen.sequence_files or chosen.sequence_hub:
        columns = _hub_columns(chosen.sequence_hub) if chosen.sequence_hub else {}
        sources = [*chosen.sequence_files, *columns]
        files = digests_of(sources, state)
        store, clusters = SequenceStore.build(sources, state / "sequences" / fingerprint(files), columns), None
    else:
        files, store = {}, SequenceStore.of(parts["train"], rows["train"]["chain_id"].to_pylist())
        clusters = clusters_of(rows["train"])
    vocabulary = network.vocabulary
    validation = [vocabulary.encode_sequence(sequence) for sequence in parts["validation"]]
    training = chosen.sequence_training
    objective = sequence_diffusion(chosen)
    task = SequenceTask(network, store, validation or None, objective, clusters=clusters, compiled=training.compile)
    started_from = {name: digest for name, digest in inputs.items() if name.startswith(_SOURCE)}
    freeze_unread(network)
    read = files | started_from if files else inputs
    made_from = {"decides": what_decides(settings, SEQUENCE_STAGE), "inputs": read, "seed": seed}
    return fit(
        task,
        training,
        seed=seed,
        state=state / SEQUENCE_STAGE,
        fingerprint=fingerprint(list(made_from.values())),
        made_from=made_from,
        metrics=out / METRICS_FILE,
        device=device,
        label="sequence stage",
    )


def _hub_columns(source: SequenceHub) -> dict[str, str]:
    """The downloaded tables of sequences, with the column to read in each."""
    return {str(path): source.columns.sequence for path in download_tables(source)}


def train(
    initial: Path,
    tokens: Sequence[Path],
    out: Path,
    state: Path,
    settings: ModelSettings,
    *,
    selections: Sequence[Path] = (),
    seed: int,
    device: str,
) -> None:
    """Train a warmed-up model on both tracks (paper section 3.1) and write it.

    Parameters
    ----------
    initial
        Folder written by `warm_up`, or a trained model to continue from.
    tokens, out, state, settings, selections, seed, device
        See `warm_up`.

    Raises
    ------
    DPLM2Error
        If the tokens are not from the model's tokenizer, or there are no training chains.
    """
    table = read_tokens(list(tokens), selections=list(selections) or None)
    tokens_fingerprint, _ = tokenizer_of(table)
    network = MultimodalEsm.from_pretrained(initial)
    _check_fits(network, tokens_fingerprint, str(initial))
    if network.is_sequence_model:
        raise DPLM2Error(f"{initial}: a sequence model; `dplm2 model warmup` adds the structure tokens")
    network.head.check(settings.diffusion)
    inputs = {"initial": sha256_of_file(initial / WEIGHTS_FILE), **_inputs(tokens, selections, tokens_fingerprint)}
    record = RunRecord("model train", _resolved(settings, "lora", "diffusion", "training"), inputs, device)
    rows = splits_of(table)
    chains = {
        split: TokenizedChains(part, network.vocabulary, settings.diffusion)
        for split, part in rows.items()
        if len(part)
    }
    if "train" not in chains:
        raise DPLM2Error("no tokenized chain is in the split train")
    freeze_unread(network)
    if settings.lora.enabled:
        lora.add(network.model, settings.lora, seed)
    made_from = {"decides": what_decides(settings, MODEL), "inputs": inputs, "seed": seed}
    training, validation = settings.training, chains.get("validation")
    result = fit(
        MultimodalTask(network, chains["train"], validation, settings.diffusion, compiled=training.compile),
        training,
        seed=seed,
        state=state / MODEL,
        fingerprint=fingerprint(list(made_from.values())),
        made_from=made_from,
        metrics=out / METRICS_FILE,
        device=device,
        label="model",
    )
    if not result.main:
        return
    network.cpu()
    lora.merge(network.model)
    if network.tokenizer and (initial / network.tokenizer).is_dir():
        network.tokenizer = warmup.relative_to(out, initial / network.tokenizer)
    record.supersede(out)
    network.save_pretrained(out)
    record.write(out, **_outcome(result), chains=len(chains["train"]))


def tokenizer_of(table: pa.Table) -> tuple[str, int]:
    """Fingerprint and codebook size of the tokenizer from which a table of tokens comes."""
    metadata = table.schema.metadata
    return metadata[b"tokenizer_fingerprint"].decode(), int(metadata[b"codebook_size"])


def splits_of(table: pa.Table) -> dict[str, pa.Table]:
    """Training and validation chains of a table of tokens; all are training chains if none has a split."""
    names = table["split"].to_pylist()
    unsplit = all(name is None for name in names)
    return {
        split: table.filter(pa.array([name == split or (unsplit and split == "train") for name in names], pa.bool_()))
        for split in ("train", "validation")
    }


def freeze_unread(network: MultimodalEsm) -> None:
    """Freeze the weights that do not affect any output: ESM-2's contact head."""
    network.model.esm.contact_head.requires_grad_(False)


def _inputs(tokens: Sequence[Path], selections: Sequence[Path], tokens_fingerprint: str) -> dict[str, str]:
    # Numbered rather than by path: moving the results must not discard training progress.
    files = [*parts_of([Path(source) for source in tokens], "tokens", selections), *selections]
    return {"tokenizer": tokens_fingerprint, **{f"{i}:{Path(f).name}": sha256_of_file(f) for i, f in enumerate(files)}}


def _source_files(source: str, state: Path) -> dict[str, str]:
    """Digests of the source's weights if they are local files; those of a hub id do not change."""
    path = Path(source)
    files = [path] if path.is_file() else sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    return {} if source == SCRATCH else {_SOURCE + file.name: hash_of(file, state) for file in files}


def _resolved(settings: ModelSettings, *names: str) -> dict[str, Any]:
    return {name: plain(getattr(settings, name)) for name in names}


def _outcome(result: FitResult | None) -> dict[str, Any]:
    if result is None:
        return {}
    outcome = {name: getattr(result, name) for name in ("steps", "epochs", "tokens", "resumed_from", "figures")}
    with contextlib.suppress(ZeroDivisionError):
        outcome["tokens_per_second"] = round(result.tokens / result.seconds, 1)
    return outcome
