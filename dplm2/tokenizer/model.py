"""The structure tokenizer: backbones to structure tokens and back.

Shapes: B batch, L residues, A atoms, X coordinates, D width of the encoder, V quantized values, Q bits.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dplm2.core.artifacts import read_json_object, write_json
from dplm2.core.batching import by_length
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.folders import Conversion, local_folder
from dplm2.core.memory import Result, refuse_beyond_memory, split_on_out_of_memory, total_memory
from dplm2.core.tensors import check_layers, check_tensors, save_tensors
from dplm2.core.unfilled import unfilled
from dplm2.cpu.process import prepare_process
from dplm2.geometry.frames import place_oxygens
from dplm2.settings.roles import plain
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer import features
from dplm2.tokenizer.bridging import bridge_gaps
from dplm2.tokenizer.cards import write_tokenizer_card
from dplm2.tokenizer.decoder import Decoder
from dplm2.tokenizer.encoder import Encoder
from dplm2.tokenizer.quantizer import Quantizer, indices_to_codes

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT, FORMAT_VERSION = "dplm2 structure tokenizer", 1
NOT_ARCHITECTURE = {
    *("weights", "frozen", "cached_features"),
    *("gradual_steps", "commitment_weight", "entropy_weight", "entropy_temperature", "uniformity_weight"),
}
DEFAULT_TOKEN_BUDGET = 2000
BYTES_PER_PAIR_OF_RESIDUES = 12  # of the encoder: the differences between all C-alpha atoms
# Maximum number of residue pairs of chains decoded together: on a CPU, more exceed its cache and take up to twice the
# time.
MAX_PAIRS = {"cpu": 40_000}
# With fewer scalar channels, products along edges are no faster in bfloat16, which would only change tokens.
MIN_CHANNELS_FOR_BFLOAT16 = 128


class Decoded(NamedTuple):
    """A decoded chain.

    Attributes
    ----------
    backbone : ndarray
        (L, 4, 3) float32: N, CA, C, O in angstrom.
    plddt : ndarray or None
        (L,) float32, 0 to 100; None if the tokenizer reports no confidence.
    """

    backbone: np.ndarray
    plddt: np.ndarray | None


def pad_backbones(backbones: Sequence[np.ndarray], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Pad backbones (L, 3 or 4, 3) to a batch: coordinates (B, L, 3, 3), observed (B, L), residues (B, L)."""
    longest = max(len(backbone) for backbone in backbones)
    coords_BLAX = torch.full((len(backbones), longest, 3, 3), torch.nan)
    residues_BL = torch.zeros(len(backbones), longest, dtype=torch.bool)
    for row, backbone in enumerate(backbones):
        coords_BLAX[row, : len(backbone)] = torch.from_numpy(np.array(backbone[:, :3], dtype=np.float32))
        residues_BL[row, : len(backbone)] = True
    coords_BLAX, residues_BL = coords_BLAX.to(device), residues_BL.to(device)
    return coords_BLAX, features.observed_residues(coords_BLAX), residues_BL


class StructureTokenizer(nn.Module):
    """Encoder, lookup-free quantizer and decoder (DPLM-2, section 3.3).

    Parameters
    ----------
    settings
        Settings, of which ``encoder``, ``quantizer`` and ``decoder`` are used.
    confidence_trained
        Whether the pLDDT head is trained and calibrated; if not, no confidence is reported.
    """

    def __init__(self, settings: TokenizerSettings, confidence_trained: bool = False) -> None:
        super().__init__()
        prepare_process()
        width, self.bits = settings.encoder.width, settings.quantizer.bits
        self.settings = settings
        self.confidence_trained = confidence_trained
        hidden = settings.quantizer.hidden or self.bits
        self.encoder = Encoder(settings.encoder)
        self.pre_quant = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, len(settings.quantizer.layout))
        )
        self.quantizer = Quantizer(settings.quantizer)
        self.decoder = Decoder(settings.decoder, settings.quantizer)
        if settings.encoder.frozen:
            self.encoder.requires_grad_(False)
        if settings.quantizer.frozen:
            self.pre_quant.requires_grad_(False)

    @property
    def codebook_size(self) -> int:
        """Number of structure tokens."""
        return 2**self.bits

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pre_quant[0].weight.device

    @property
    def config(self) -> dict:
        """Content of ``config.json``."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": architecture(self.settings),
            "confidence_trained": self.confidence_trained,
        }

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, a hash of architecture and weights: equal only for identical tokenizers."""
        return self._fingerprint(("encoder", "pre_quant", "quantizer", "decoder"))

    @property
    def codes_fingerprint(self) -> str:
        """The same without the decoder: equal for tokenizers that encode structures identically.

        Tokens and models refer to it, so that they remain valid when only the decoder is trained further.
        """
        return self._fingerprint(("encoder", "pre_quant", "quantizer"))

    def _fingerprint(self, parts: Sequence[str]) -> str:
        without_effect = {"dropout", *self.settings.encoder.unused}
        described = {
            name: {key: value for key, value in values.items() if key not in without_effect}
            for name, values in architecture(self.settings).items()
            if name in parts
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            if name.split(".")[0] in parts:
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> "StructureTokenizer":
        """Set the training mode; a frozen encoder has no dropout."""
        super().train(mode)
        if self.settings.encoder.frozen:
            self.encoder.eval()
        return self

    def values(
        self, coords_BLAX: Tensor, observed_BL: Tensor, residues_BL: Tensor, precision: torch.dtype = torch.float32
    ) -> Tensor:
        """Values (B, L, V) before quantization, by default one per bit; zero at missing residues and padding."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.encoder.frozen):
            features_BLD = self.encoder(coords_BLAX, observed_BL, residues_BL, precision)
        return self.values_of_features(features_BLD, observed_BL)

    def values_of_features(self, features_BLD: Tensor, observed_BL: Tensor) -> Tensor:
        """Values (B, L, V) before quantization, from the encoder's features."""
        return self.pre_quant(features_BLD) * observed_BL[..., None]

    @overload
    def encode(self, backbones: np.ndarray, token_budget: int = ..., precision: str = ...) -> np.ndarray: ...
    @overload
    def encode(
        self, backbones: Sequence[np.ndarray], token_budget: int = ..., precision: str = ...
    ) -> list[np.ndarray]: ...
    @torch.inference_mode()
    def encode(self, backbones, token_budget=DEFAULT_TOKEN_BUDGET, precision="float32"):
        """Encode backbones as structure tokens.

        Parameters
        ----------
        backbones
            One backbone or a list of them, each (L, 3 or 4, 3) in angstrom: N, CA, C (and O, which is ignored), with
            NaN where an atom is missing. A residue that lacks N, CA or C gets index 0, which is also a valid token
            (with ``encoder.bridge_gaps``, that of the bridge over the gap): store which residues are observed.
        token_budget
            Maximum number of residues per batch, including padding. If memory runs out, the batch is halved.
        precision
            "float32", or "bfloat16" for the encoder's large products: faster on processors and GPUs that support it,
            but a few tokens differ. An encoder with fewer than 128 scalar channels has no large products: its tokens
            are those of float32.

        Returns
        -------
        ndarray or list of ndarray
            (L,) uint16 for each backbone.

        Raises
        ------
        DPLM2Error
            If a backbone has a different shape.
        ConfigError
            If a chain is too long for the memory; nothing has been allocated.
        """
        single = not isinstance(backbones, list | tuple)
        chains = [as_backbone(backbone) for backbone in ([backbones] if single else backbones)]
        if self.settings.encoder.bridge_gaps:
            chains = [bridge_gaps(chain) for chain in chains]
        longest = max(map(len, chains), default=0)
        refuse_beyond_memory(
            f"encoding: a chain of {longest:,} residues",
            BYTES_PER_PAIR_OF_RESIDUES * longest**2,
            total_memory(self.device),
            "leave it out",
        )
        tokens = [np.zeros(len(chain), np.uint16) for chain in chains]
        self.eval()
        is_narrow = self.settings.encoder.node_scalars < MIN_CHANNELS_FOR_BFLOAT16
        dtype = torch.float32 if is_narrow else getattr(torch, precision)

        def work(group: list[int]) -> np.ndarray:
            batch = pad_backbones([chains[index] for index in group], self.device)
            return self.quantizer.indices(self.values(*batch, dtype), batch[1]).cpu().numpy()

        groups = by_length([len(chain) for chain in chains], token_budget)
        for group, indices in _split_on_out_of_memory(
            (group for group in groups if len(chains[group[0]])), work, chains
        ):
            for row, index in enumerate(group):
                tokens[index][:] = indices[row, : len(chains[index])]
        return tokens[0] if single else tokens

    @overload
    def decode(self, tokens: np.ndarray, token_budget: int = ..., precision: str = ...) -> Decoded: ...
    @overload
    def decode(self, tokens: Sequence[np.ndarray], token_budget: int = ..., precision: str = ...) -> list[Decoded]: ...
    @torch.inference_mode()
    def decode(self, tokens, token_budget=DEFAULT_TOKEN_BUDGET, precision="float32"):
        """Decode structure tokens to backbones.

        Parameters
        ----------
        tokens
            The tokens of one chain, (L,) integers below ``codebook_size``, or a list of these.
        token_budget
            Maximum number of residues per batch, including padding; on a CPU the number of residue pairs is limited,
            too. If memory runs out, the batch is halved.
        precision
            "float32", or "bfloat16" for the folding trunk: faster on a GPU, with slightly different coordinates.

        Returns
        -------
        Decoded or list of Decoded
            Backbone and confidence of each chain.

        Raises
        ------
        DPLM2Error
            If a token is not in the codebook.
        """
        single = not isinstance(tokens, list | tuple) or bool(len(tokens)) and np.ndim(tokens[0]) == 0
        chains = [self._as_tokens(chain) for chain in ([tokens] if single else tokens)]
        decoded: list[Decoded | None] = [None] * len(chains)
        self.eval()

        def work(group: list[int]) -> list[Decoded]:
            return list(self._decode_batch([chains[index] for index in group], getattr(torch, precision)))

        groups = self.decoding_groups([len(chain) for chain in chains], token_budget)
        for group, results in _split_on_out_of_memory(groups, work, chains):
            for index, result in zip(group, results, strict=True):
                decoded[index] = result
        return decoded[0] if single else decoded

    def decoding_groups(self, lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
        """Yield indices of chains to decode together, given their lengths."""
        return by_length(lengths, token_budget, MAX_PAIRS.get(self.device.type))

    def _as_tokens(self, tokens) -> np.ndarray:
        values = np.asarray(tokens)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or len(values) == 0:
            raise DPLM2Error(
                f"the structure tokens of a chain must be a row of integers, not {values.dtype} of shape {values.shape}"
            )
        if values.min() < 0 or values.max() >= self.codebook_size:
            raise DPLM2Error(
                f"structure token {values.max() if values.min() >= 0 else values.min()} is not among the "
                f"{self.codebook_size} of this tokenizer"
            )
        return values.astype(np.int64)

    def _decode_batch(self, chains: list[np.ndarray], precision: torch.dtype) -> Iterator[Decoded]:
        lengths = [len(chain) for chain in chains]
        indices_BL = torch.zeros(len(chains), max(lengths), dtype=torch.long)
        mask_BL = torch.zeros(len(chains), max(lengths), dtype=torch.bool)
        for row, chain in enumerate(chains):
            indices_BL[row, : len(chain)] = torch.from_numpy(chain)
            mask_BL[row, : len(chain)] = True
        codes_BLQ = indices_to_codes(indices_BL.to(self.device), self.bits)
        output = self.decoder(codes_BLQ, mask_BL.to(self.device), distogram=False, precision=precision)
        positions = output.positions[:, :, :4].float().cpu()
        plddt = output.plddt.float().cpu().numpy()
        for row, length in enumerate(lengths):
            confidence = plddt[row, :length].copy() if self.confidence_trained else None
            # Per chain: the position of O depends on the next residue, which must not be padding.
            yield Decoded(place_oxygens(positions[row, :length]).numpy(), confidence)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_tensors(Path(folder) / WEIGHTS_FILE, state)
        fingerprints = {"fingerprint": self.fingerprint, "codes_fingerprint": self.codes_fingerprint}
        write_json(Path(folder) / CONFIG_FILE, {**self.config, **fingerprints})
        write_tokenizer_card(folder, self)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, device: torch.device | str = "cpu") -> "StructureTokenizer":
        """Load a tokenizer.

        Parameters
        ----------
        source
            A folder written by ``save_pretrained``, or a hub id: of such a folder, or of the authors' tokenizer
            (``airkingbd/struct_tokenizer``), which is downloaded and converted on first use.
        device
            Device of the weights.

        Raises
        ------
        DPLM2Error
            If there is no tokenizer, or its weights do not fit its configuration.
        """
        prepare_process()
        folder = local_folder(source, Conversion("tokenizer", _is_official, _convert))
        config = read_json_object(folder / CONFIG_FILE)
        if config.get("format") != FORMAT or config.get("format_version") != FORMAT_VERSION:
            raise DPLM2Error(
                f"{folder}: not a structure tokenizer of this version (the authors' need: dplm2 import tokenizer)"
            )
        try:
            settings = TokenizerSettings.restored(config["architecture"])
            sizes = settings.encoder.layers, settings.encoder.gvp_layers
            check_layers(folder / WEIGHTS_FILE, *sizes, settings.decoder.blocks, settings.decoder.post_quant_layers)
            with unfilled():
                tokenizer = cls(settings, config["confidence_trained"] is True)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, ConfigError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DPLM2Error(f"{folder / CONFIG_FILE}: not the configuration of a tokenizer ({reason})") from error
        tokenizer.load_weights(folder / WEIGHTS_FILE)
        return tokenizer.to(device).eval()

    def load_weights(self, path: str | os.PathLike) -> None:
        """Load the weights of a tokenizer of the same architecture.

        Raises
        ------
        DPLM2Error
            If the file does not exist or contains other weights.
        """
        check_tensors(path)
        try:
            self.load_state_dict(load_file(path), assign=self.device.type == "meta")
        except (OSError, SafetensorError, RuntimeError) as error:
            raise DPLM2Error(
                f"{path}: not the weights of this tokenizer ({' '.join(str(error).split())[:500]})"
            ) from error


def _is_official(folder: Path) -> bool:
    """Whether a folder contains a checkpoint of another program: it has no configuration in our format."""
    return not (folder / CONFIG_FILE).is_file() or "format" not in read_json_object(folder / CONFIG_FILE)


def _convert(downloaded: Path, folder: Path, **origin: str | None) -> None:
    from dplm2.tokenizer.importing import import_tokenizer

    import_tokenizer(downloaded, folder, **origin)


def _split_on_out_of_memory(
    groups: Iterable[list[int]], work: Callable[[list[int]], Result], chains: Sequence[np.ndarray]
):  # noqa: ANN202
    """Process groups of chains, and halves of them when memory runs out."""
    return split_on_out_of_memory(
        groups, work, lambda i: len(chains[i]), lambda i: f"chain {i + 1} of {len(chains)}", "chain"
    )


def architecture(settings: TokenizerSettings) -> dict[str, Mapping]:
    """The settings that determine the shapes and the meaning of the weights, by section."""
    sections = {}
    for name in ("encoder", "quantizer", "decoder"):
        values = plain(getattr(settings, name))
        sections[name] = {key: value for key, value in values.items() if key not in NOT_ARCHITECTURE}
    return sections


def as_backbone(backbone: np.ndarray) -> np.ndarray:
    """The array as float32, checked to be a backbone (L, 3 or more, 3)."""
    values = np.asarray(backbone, dtype=np.float32)
    if values.ndim != 3 or values.shape[1] < 3 or values.shape[2] != 3:
        raise DPLM2Error(f"a backbone must have the shape (residues, 3 or 4 atoms, 3), not {values.shape}")
    return values
