"""Training of the structure tokenizer: chains in, a tokenizer folder out (DPLM-2, section 3.3 and appendix B).

Shapes: B batch, L residues, A atoms, X space, Q bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from dplm2.core.artifacts import RunRecord, fingerprint, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.core.inputs import hash_of
from dplm2.geometry import backbone as geometry
from dplm2.geometry.lddt import lddt_per_residue
from dplm2.geometry.superposition import rmsd
from dplm2.settings.roles import plain
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.settings.trainings import TOKENIZER, what_decides
from dplm2.structures.store import SELECTION_FILE, read_chains
from dplm2.tokenizer import losses
from dplm2.tokenizer.bridging import bridge_gaps
from dplm2.tokenizer.codebook import codebook_use
from dplm2.tokenizer.decoder import DecoderOutput
from dplm2.tokenizer.feature_cache import cached_features
from dplm2.tokenizer.features import observed_residues
from dplm2.tokenizer.importing import load_encoder_weights
from dplm2.tokenizer.model import WEIGHTS_FILE, StructureTokenizer
from dplm2.tokenizer.quantizer import indices_to_codes
from dplm2.tokenizer.tokens import parts_of
from dplm2.training.loop import fit

METRICS_FILE = "metrics.csv"
FEATURES_FOLDER = "encoder_features"  # beside the folders of resumable state
VALIDATION_CHAINS = 64  # maximum number of chains reconstructed at each validation
VALIDATION_TOKEN_BUDGET = 2048
MAX_VALIDATION_LENGTH = 512
CALIBRATED = 0.25  # minimum explained variance of lDDT between residues for which pLDDT is reported
AMINO_ACID_NUMBERS = {letter: number for number, letter in enumerate(losses.AMINO_ACIDS)}


class TokenizerObjective(nn.Module):
    """The training loss of a batch of backbones.

    Parameters
    ----------
    tokenizer
        The tokenizer to train.
    settings
        Settings, of which ``loss`` is used.
    """

    def __init__(self, tokenizer: StructureTokenizer, settings: TokenizerSettings) -> None:
        super().__init__()
        self.tokenizer, self.settings = tokenizer, settings

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms.

        Missing residues are decoded like all others, from their codes, as in use; only padding is masked.
        """
        coords_BLAX, observed_BL, mask_BL = batch["coords"], batch["observed"], batch["mask"]
        weights, placed_BL = self.settings.loss, batch["placed"]
        if "features" in batch:
            values_BLQ = self.tokenizer.values_of_features(batch["features"], placed_BL)
        else:
            values_BLQ = self.tokenizer.values(coords_BLAX, placed_BL, mask_BL)
        quantized = self.tokenizer.quantizer(values_BLQ.float(), placed_BL)
        output = self.tokenizer.decoder(quantized.codes_BLQ, mask_BL, distogram=weights.distogram > 0)
        targets = losses.targets_of(coords_BLAX, observed_BL, mask_BL, batch["residues"], batch["bonded"], placed_BL)
        total, terms = losses.reconstruction_loss(output, targets, weights)
        scale = losses.scale_of(targets.lengths, weights, weights.crop)
        with torch.no_grad():
            alpha = output.positions[:, :, 1].float()
            deviation = rmsd(alpha, targets.origins, observed_BL).mean()
        metrics = {
            **terms,
            "commitment": quantized.commitment,
            "sample_entropy": quantized.sample_entropy,
            "codebook_entropy": quantized.codebook_entropy,
            "rmsd": deviation,
        }
        loss = scale * (total + weights.codebook * quantized.loss)
        return loss, {name: value.detach() for name, value in metrics.items()}


class TokenizerTask:
    """Task of the training loop: random windows of chains for training, reconstruction of chains for validation.

    Parameters
    ----------
    tokenizer
        The tokenizer to train.
    settings
        Settings of the tokenizer.
    chains
        Table of training chains (columns `ChainWindows.COLUMNS`).
    held_out
        Validation chains; if empty, the first training chains are reconstructed.
    features
        Folder for the frozen encoder's features of the training chains; None: features are computed at each step.
    """

    def __init__(
        self,
        tokenizer: StructureTokenizer,
        settings: TokenizerSettings,
        chains: pa.Table,
        held_out: pa.Table,
        features: Path | None = None,
    ) -> None:
        self.module = TokenizerObjective(tokenizer, settings)
        self.settings = settings
        bridged = settings.encoder.bridge_gaps
        self.chains = ChainWindows(chains, bridged)
        self.features = None
        if features is not None:
            self.features = cached_features(tokenizer.eval().encoder, self.chains.backbones, features)
        self.ids = chains["chain_id"].to_pylist()
        crop = settings.loss.crop
        self.costs = [length if crop is None else min(length, crop) for length in self.chains.lengths]
        clusters = chains["cluster"].to_pylist()
        self.clusters = clusters if any(clusters) else None
        self.validated = ChainWindows((held_out if len(held_out) else chains).slice(0, VALIDATION_CHAINS), bridged)

    def begin_step(self, step: int) -> None:
        """Enable the quantization of bits one by one over the first ``quantizer.gradual_steps`` steps."""
        quantizer, steps = self.module.tokenizer.quantizer, self.settings.quantizer.gradual_steps
        quantizer.bits_on = self.settings.quantizer.bits * min(1.0, step / steps if steps else 1.0)

    def collate(self, indices: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        """A batch of random windows of these chains."""
        crop = self.settings.loss.crop
        windows = []
        for index in indices:
            length = self.chains.lengths[index]
            extra = 0 if crop is None else max(0, length - crop)
            start = int(torch.randint(extra + 1, (1,), generator=generator))
            windows.append((index, start, start + length - extra))
        batch = self.chains.batch(windows)
        return batch if self.features is None else {**batch, "features": self.features.batch(windows)}

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """C-alpha RMSD and lDDT of reconstructed chains, and their use of the codebook."""
        del module  # the wrapped network; decoding needs its parts
        tokenizer = self.module.tokenizer
        deviations, kept, tokens = [], [], []
        for batch, indices, output in reconstructions(tokenizer, self.validated):
            observed, true = batch["observed"], batch["coords"][:, :, 1]
            alpha = output.positions[:, :, 1].float()
            deviations += rmsd(alpha, true, observed).tolist()
            per_residue = lddt_per_residue(alpha, true, observed) * observed
            kept += (per_residue.sum(-1) / observed.sum(-1).clamp(min=1)).tolist()
            tokens.append(indices[observed].cpu().numpy())
        use, perplexity = codebook_use(tokens, tokenizer.codebook_size)
        return {
            "rmsd": float(np.mean(deviations)),
            "rmsd_median": float(np.median(deviations)),
            "lddt": float(np.mean(kept)),
            "codes_used": use,
            "code_perplexity": perplexity,
        }

    def describe(self, batch: Mapping[str, Tensor]) -> dict[str, str]:
        """Size of the first batch, for the log."""
        residues = int(batch["mask"].sum())
        return {
            "first batch": f"{len(batch['mask'])} windows, {residues} residues, {int(batch['observed'].sum())} observed"
        }


class ChainWindows:
    """Chains in memory, and batches of windows of them.

    Parameters
    ----------
    table
        Table with the columns ``COLUMNS``.
    bridged
        Whether to bridge missing residues between observed ones.
    """

    COLUMNS = ("chain_id", "sequence", "length", "residue_index", "backbone", "cluster", "split")

    def __init__(self, table: pa.Table, bridged: bool = False) -> None:
        self.lengths = table["length"].to_pylist()
        self.sequences = table["sequence"].to_pylist()
        backbones = [np.asarray(row, np.float32).reshape(-1, 4, 3) for row in table["backbone"].to_numpy()]
        self.observed = [geometry.observed_residues(backbone) for backbone in backbones]
        self.backbones = [bridge_gaps(backbone) for backbone in backbones] if bridged else backbones
        self.numbering = [np.asarray(row, np.int32) for row in table["residue_index"].to_numpy()]

    def batch(self, windows: Sequence[tuple[int, int, int]]) -> dict[str, Tensor]:
        """A batch of windows (chain, start, end), padded to the longest.

        Returns
        -------
        dict
            ``coords`` (B, L, 3, 3) angstrom, zero where missing; ``observed``, ``placed`` (observed or on a bridge),
            ``mask`` (not padding) and ``bonded`` (the next residue has the next number), all (B, L) bool; ``residues``
            (B, L), indices into ``losses.AMINO_ACIDS``.
        """
        shape = len(windows), max(end - start for _, start, end in windows)
        coords = torch.full((*shape, 3, 3), torch.nan)
        residues = torch.full(shape, losses.UNKNOWN)
        mask, observed, bonded = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
        for row, (chain, start, end) in enumerate(windows):
            size = end - start
            coords[row, :size] = torch.from_numpy(self.backbones[chain][start:end, :3].copy())
            letters = self.sequences[chain][start:end]
            residues[row, :size] = torch.tensor([AMINO_ACID_NUMBERS.get(letter, losses.UNKNOWN) for letter in letters])
            mask[row, :size] = True
            observed[row, :size] = torch.from_numpy(self.observed[chain][start:end])
            bonded[row, : size - 1] = torch.from_numpy(np.diff(self.numbering[chain][start:end]) == 1)
        placed = observed_residues(coords) & mask
        coords = torch.where(placed[..., None, None], coords, 0.0)
        return {
            "coords": coords,
            "observed": observed,
            "placed": placed,
            "mask": mask,
            "residues": residues,
            "bonded": bonded,
        }


def train_tokenizer(
    chains: Sequence[Path], out: Path, state: Path, settings: TokenizerSettings, *, seed: int, device: str
) -> None:
    """Train a tokenizer and write its folder.

    Parameters
    ----------
    chains
        Datasets of chains; training chains are those of the split ``train`` and those without a split.
    out
        Folder of the finished tokenizer: ``model.safetensors``, ``config.json``, ``metrics.csv``, ``run.json``.
    state
        Folder of resumable training state.
    settings
        Settings of the tokenizer.
    seed
        Seed of initial weights and of all random choices.
    device
        Device of the training.

    Raises
    ------
    DPLM2Error
        If there are no training chains, or initial weights do not fit the settings.
    """
    cached = settings.encoder.cached_features
    table = read_chains(list(chains), columns=list(ChainWindows.COLUMNS))
    split = table["split"].fill_null("train")
    training, held_out = table.filter(pc.equal(split, "train")), table.filter(pc.equal(split, "validation"))
    if len(training) == 0:
        raise DPLM2Error(f"{', '.join(map(str, chains))}: no chain in the split train")
    inputs = _inputs(chains, settings, state)
    record = RunRecord("tokenizer train", plain(settings), inputs, device)
    tokenizer = initial_tokenizer(settings, seed)
    features = state / FEATURES_FOLDER if cached else None
    task = TokenizerTask(tokenizer.to(device), settings, training, held_out, features)
    made_from = {"decides": what_decides(settings, TOKENIZER), "inputs": inputs, "seed": seed}
    result = fit(
        task,
        settings.training,
        seed=seed,
        state=state / TOKENIZER,
        fingerprint=fingerprint(list(made_from.values())),
        made_from=made_from,
        metrics=out / METRICS_FILE,
        device=device,
        label="structure tokenizer",
    )
    if not result.main:
        return
    figures = dict(result.figures)
    if settings.loss.confidence > 0:
        figures["plddt_explained_variance"] = explained = explained_variance(tokenizer, task.validated)
        tokenizer.confidence_trained = explained >= CALIBRATED
        if not tokenizer.confidence_trained:
            print(
                f"the confidence head is not calibrated: it explains {explained:.0%} of the variance of lDDT between "
                f"residues (at least {CALIBRATED:.0%} needed); this tokenizer reports no pLDDT"
            )
    record.supersede(out)
    tokenizer.save_pretrained(out)
    outcome = {"steps": result.steps, "figures": figures}
    record.write(out, chains=len(training), validation_chains=len(held_out), **outcome)


@torch.no_grad()
def explained_variance(tokenizer: StructureTokenizer, chains: ChainWindows) -> float:
    """Fraction of the variance of lDDT between residues that pLDDT explains; negative if a constant does better."""
    tokenizer.eval()
    plddt, lddt = [], []
    for batch, _, output in reconstructions(tokenizer, chains):
        observed = batch["observed"]
        true = lddt_per_residue(output.positions[:, :, 1].float(), batch["coords"][:, :, 1], observed)
        plddt.append(output.plddt[observed].float())
        lddt.append(100 * true[observed])
    errors, spread = torch.cat(plddt) - torch.cat(lddt), torch.cat(lddt).var(correction=0)
    return 1 - (errors.square().mean() / spread).item()


def reconstructions(
    tokenizer: StructureTokenizer, chains: ChainWindows
) -> Iterator[tuple[dict[str, Tensor], Tensor, DecoderOutput]]:
    """Encode and decode chains, truncated to `MAX_VALIDATION_LENGTH`; yield batch, tokens (B, L) and decoder output."""
    lengths = [min(length, MAX_VALIDATION_LENGTH) for length in chains.lengths]
    for group in tokenizer.decoding_groups(lengths, VALIDATION_TOKEN_BUDGET):
        batch = chains.batch([(index, 0, lengths[index]) for index in group])
        batch = {name: value.to(tokenizer.device) for name, value in batch.items()}
        values = tokenizer.values(batch["coords"], batch["placed"], batch["mask"])
        indices_BL = tokenizer.quantizer.indices(values, batch["placed"])
        yield (
            batch,
            indices_BL,
            tokenizer.decoder(indices_to_codes(indices_BL, tokenizer.bits), batch["mask"], distogram=False),
        )


def initial_tokenizer(settings: TokenizerSettings, seed: int) -> StructureTokenizer:
    """A tokenizer with initial weights: random, from ``initial``, or with ESM-IF1's encoder, as configured."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = StructureTokenizer(settings, confidence_trained=settings.loss.confidence > 0)
    if settings.initial is not None:
        tokenizer.load_weights(Path(settings.initial) / WEIGHTS_FILE)
    if settings.encoder.weights is not None:
        load_encoder_weights(tokenizer.encoder, settings.encoder.weights)
    freeze_unused(tokenizer, settings)
    return tokenizer


def freeze_unused(tokenizer: StructureTokenizer, settings: TokenizerSettings) -> None:
    """Freeze parameters without effect on the loss: heads of terms with weight 0, a structure module without passes."""
    decoder, weights = tokenizer.decoder, settings.loss
    for head, weight in (
        (decoder.distogram_head, weights.distogram),
        (decoder.sequence_head, weights.sequence),
        (decoder.confidence_head, weights.confidence),
        (decoder.structure_module.torsion, weights.violation),
    ):
        head.requires_grad_(weight > 0)
    if settings.decoder.structure_blocks == 0:
        for name, part in decoder.structure_module.named_children():
            part.requires_grad_(name in ("sequence_norm", "start"))
        decoder.pair_to_structure.requires_grad_(False)
        if settings.decoder.blocks == 0 and weights.distogram == 0:
            decoder.trunk.relative_position.requires_grad_(False)
            decoder.trunk.pair_start.requires_grad_(False)


def _inputs(chains: Sequence[Path], settings: TokenizerSettings, state: Path) -> dict[str, str]:
    """SHA-256 of every file that affects the training, by its role, so that moving a folder changes nothing."""
    parts = parts_of(chains, "chains")
    files = {f"chains {i}": part for i, part in enumerate(parts)}
    files |= {
        f"selection {i}": folder / SELECTION_FILE for i, folder in enumerate(dict.fromkeys(p.parent for p in parts))
    }
    given = {}
    if settings.encoder.weights is not None:
        given["encoder weights"] = Path(settings.encoder.weights)
    if settings.initial is not None:
        given["initial weights"] = Path(settings.initial) / WEIGHTS_FILE
    hashes = {name: sha256_of_file(file) for name, file in files.items() if file.exists()}
    return hashes | {name: hash_of(file, state) for name, file in given.items() if file.exists()}
