"""The language model: an ESM-2 network over two tracks, structure tokens and amino acids.

The network itself is `dplm2.language.esm`; this module prepares its input: both tracks share residue positions, a mask
hides padding and separates the tracks of single-modality samples, and embeddings are scaled (paper section 3.1). The
structure head (`dplm2.language.heads`) embeds and predicts structure tokens.

Shapes: B batch, T tokens (both tracks), N selected positions, D model width, V vocabulary, C classes of one track.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dplm2.core.artifacts import write_json
from dplm2.core.errors import DPLM2Error
from dplm2.core.tensors import save_tensors
from dplm2.cpu import attention, switch
from dplm2.cpu.process import prepare_process
from dplm2.cpu.products import linear
from dplm2.language import heads
from dplm2.language.cards import write_model_card
from dplm2.language.esm import Esm2, features
from dplm2.language.model_folder import (
    CONFIG_FILE,
    HEAD,
    OWN_CLASS,
    OWN_TYPE,
    WEIGHTS_FILE,
    load_masked_lm,
    model_folder,
    read_config,
    vocabulary_and_head,
    write_vocabulary,
)
from dplm2.language.vocabulary import SEQUENCE_IDS, TRACKS, Track, Vocabulary

EmbeddingScaling = Literal["none", "once", "released", "released_bit"]
# ESM-2 was pre-trained with 15 % of the tokens selected and 80 % of those masked.
_UNMASKED_IN_PRETRAINING = 1 - 0.15 * 0.8


class MultimodalEsm(nn.Module):
    """ESM-2 over a structure track and a sequence track.

    A sample is ``[<cls_struct> s1..sL <eos_struct> pad.. | <cls_aa> a1..aL <eos_aa> pad..]``, each half padded to the
    longest in the batch. A batch may also have only one track (then there are no halves), or contain samples of which
    one half is all padding.

    Parameters
    ----------
    model
        The network; its own ``token_dropout`` is ignored.
    vocabulary
        Ids of the tokens.
    embedding_scaling
        ``none`` for new models; for the others see `embeddings`.
    tokenizer
        Location of the structure tokenizer: a path relative to the model's folder, or a hub id.
    tokenizer_fingerprint
        Fingerprint of the tokenizer whose codes the model was trained on.
    head
        Structure head; `dplm2.language.heads.codes.Codes` by default.

    Attributes
    ----------
    packing
        Whether to compute samples without padding (see `dplm2.cpu.attention`) instead of with a mask. None: on a CPU
        (unless compiled, or ``DPLM2_CPU=plain``) and on a GPU in half precision. The results are the same.
    """

    def __init__(
        self,
        model: Esm2,
        vocabulary: Vocabulary,
        embedding_scaling: EmbeddingScaling = "none",
        tokenizer: str | None = None,
        tokenizer_fingerprint: str | None = None,
        head: heads.StructureHead | None = None,
    ) -> None:
        super().__init__()
        prepare_process()
        self.head = heads.make(heads.DEFAULT, vocabulary, model.config.hidden_size) if head is None else head
        self.packing: bool | None = None
        self.model, self.vocabulary, self.embedding_scaling = model, vocabulary, embedding_scaling
        self.tokenizer, self.tokenizer_fingerprint = tokenizer, tokenizer_fingerprint

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.lm_head.bias.device

    def forward(self, input_ids_BT: Tensor, single_modality_B: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) over the whole vocabulary at every position; those at padding are meaningless.

        If each track has its own softmax, only logits of the same track are comparable. -inf for ids that the head
        cannot predict.
        """
        hidden_BTD = self.hidden(input_ids_BT, single_modality_B)
        if self.head.one_softmax:
            return self.model.lm_head(hidden_BTD)
        hidden_ND = hidden_BTD.flatten(0, 1)
        logits_NV = hidden_ND.new_full((len(hidden_ND), len(self.vocabulary)), -torch.inf)
        for track in TRACKS:
            classes = self.classes(track)
            logits_NV[:, classes.start : classes.stop] = self.track_logits(hidden_ND, track).to(logits_NV.dtype)
        return logits_NV.unflatten(0, hidden_BTD.shape[:2])

    def hidden(self, input_ids_BT: Tensor, single_modality_B: Tensor | None = None) -> Tensor:
        """Representations (B, T, D) after the last layer.

        Parameters
        ----------
        input_ids_BT
            Ids of both tracks or of one.
        single_modality_B
            True for samples whose tracks must not attend to each other; none by default.
        """
        if self.packs:
            if attention.takes_bounds(self.device, self._dtype):
                return self._packed_hidden_static(input_ids_BT, single_modality_B)
            return self._packed_hidden(input_ids_BT, single_modality_B)
        return self.model.esm(
            self.embeddings(input_ids_BT),
            self.positions(input_ids_BT),
            mask=self.attention_mask(input_ids_BT, single_modality_B),
        )

    def hidden_of_layers(self, input_ids_BT: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Representations (B, T, D) after some layers, in one pass.

        Layer 0 is the input of the first layer, and the last that of `hidden`, with the final normalization (as in
        transformers' ``hidden_states``). Values at padding mean nothing.
        """
        blocks = self.model.esm.encoder.layer
        kept: dict[int, Tensor] = {}
        with contextlib.ExitStack() as stack:
            for layer in {*layers} - {self.depth}:
                if layer == 0:
                    hook = blocks[0].register_forward_pre_hook(lambda _, given: kept.update({0: given[0]}))
                else:
                    hook = blocks[layer - 1].register_forward_hook(
                        lambda _, given, output, layer=layer: kept.update({layer: output})
                    )
                stack.callback(hook.remove)
            last_BTD = self.hidden(input_ids_BT)
        return {
            layer: last_BTD if layer == self.depth else self._side_by_side(kept[layer], input_ids_BT)
            for layer in layers
        }

    def _side_by_side(self, hidden: Tensor, input_ids_BT: Tensor) -> Tensor:
        """Hidden states (B, T, D) from those in the order in which the layers see them."""
        if not self.packs:
            return hidden
        real_BT = input_ids_BT != self.vocabulary.pad
        if attention.takes_bounds(self.device, self._dtype):
            return _in_original_order(hidden.view(*real_BT.shape, -1), _tokens_first(real_BT))
        return _with_padding(hidden, real_BT)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.model.esm.encoder.layer)

    @property
    def packs(self) -> bool:
        """Whether samples are packed without padding, instead of padded with a mask."""
        if self.packing is not None:
            return self.packing
        if self.device.type == "cpu":
            return not torch.compiler.is_compiling() and switch.is_lean()
        return attention.takes_bounds(self.device, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        """Type of the attention's activations."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        return self.model.lm_head.bias.dtype

    def _packed_hidden(self, input_ids_BT: Tensor, single_modality_B: Tensor | None) -> Tensor:
        real_BT = input_ids_BT != self.vocabulary.pad
        packed_1ND = self.model.esm(
            self.embeddings(input_ids_BT)[real_BT].unsqueeze(0),
            self.positions(input_ids_BT).expand_as(input_ids_BT)[real_BT].unsqueeze(0),
            segments=self._segments(input_ids_BT, real_BT, single_modality_B),
        )
        return _with_padding(packed_1ND, real_BT)

    def _packed_hidden_static(self, input_ids_BT: Tensor, single_modality_B: Tensor | None) -> Tensor:
        """Like `_packed_hidden`, but of static shape and without synchronisation: padding is one more segment."""
        real_BT = input_ids_BT != self.vocabulary.pad
        order_BT = _tokens_first(real_BT)
        embeddings_BTD = self.embeddings(input_ids_BT)
        ordered_BTD = embeddings_BTD.gather(1, order_BT.unsqueeze(-1).expand_as(embeddings_BTD))
        hidden_1ND = self.model.esm(
            ordered_BTD.flatten(0, 1).unsqueeze(0),
            self.positions(input_ids_BT).expand_as(input_ids_BT).gather(1, order_BT).view(1, -1),
            segments=self._bounds(input_ids_BT, real_BT, single_modality_B),
        )
        return _in_original_order(hidden_1ND.view(ordered_BTD.shape), order_BT)

    def _bounds(self, input_ids_BT: Tensor, real_BT: Tensor, single_modality_B: Tensor | None) -> attention.Bounds:
        """Three segments per sample: its tokens or first half, its second half or nothing, its padding."""
        has_halves, half = self.halves(input_ids_BT)
        total_B = real_BT.sum(1)
        first_B = total_B
        if single_modality_B is not None:
            first_B = torch.where(single_modality_B & has_halves, real_BT[:, :half].sum(1), total_B)
        longest = input_ids_BT.shape[1]
        lengths_B3 = torch.stack([first_B, total_B - first_B, longest - total_B], 1)
        ends = lengths_B3.flatten().cumsum(0, dtype=torch.int32)
        return attention.Bounds(nn.functional.pad(ends, (1, 0)), longest)

    def _segments(self, input_ids_BT: Tensor, real_BT: Tensor, single_modality_B: Tensor | None) -> list[int]:
        """Number of tokens of each segment, in order; tokens attend only within their segment."""
        has_halves, half = self.halves(input_ids_BT)
        first_B, total_B = real_BT[:, :half].sum(1).tolist(), real_BT.sum(1).tolist()
        separate_B = [False] * len(total_B)
        if single_modality_B is not None and has_halves:
            separate_B = single_modality_B.tolist()
        lengths = []
        for first, total, separate in zip(first_B, total_B, separate_B, strict=True):
            lengths += [first, total - first] if separate else [total]
        return [length for length in lengths if length]

    def classes(self, track: Track) -> range:
        """Ids that can be predicted on a track: the columns of `track_logits`."""
        return self.head.classes if track == "structure" else self.vocabulary.classes("sequence")

    def competing(self, track: Track) -> range:
        """Ids that share a softmax with those of a track: the columns of `logits`."""
        return range(len(self.vocabulary)) if self.head.one_softmax else self.classes(track)

    def is_scored(self, ids: Tensor, track: Track) -> Tensor:
        """True where an id (tensor of any shape) can be predicted on a track."""
        classes = self.classes(track)
        return (ids >= classes.start) & (ids < classes.stop)

    def track_logits(self, hidden_ND: Tensor, track: Track) -> Tensor:
        """Logits (N, C) over the classes of one track: ids ``classes(track)``, in this order."""
        lm_head = self.model.lm_head
        if track == "structure":
            return self.head.logits(lm_head, hidden_ND)
        rows = slice(SEQUENCE_IDS)
        return linear(features(lm_head, hidden_ND), lm_head.decoder.weight[rows], lm_head.bias[rows])

    def logits(self, hidden_ND: Tensor, track: Track) -> Tensor:
        """Logits (N, C) over all ids that share a track's softmax: ids ``competing(track)``, in this order."""
        return self.model.lm_head(hidden_ND) if self.head.one_softmax else self.track_logits(hidden_ND, track)

    def nll(self, hidden_ND: Tensor, ids_N: Tensor, track: Track) -> Tensor:
        """Negative log-probability (N,) in nats, in float32, of ids among the classes of their track."""
        if track == "structure":
            return self.head.nll(self.model.lm_head, hidden_ND, ids_N)
        return nn.functional.cross_entropy(self.track_logits(hidden_ND, track).float(), ids_N, reduction="none")

    def embeddings(self, input_ids_BT: Tensor) -> Tensor:
        """Input embeddings (B, T, D); zero at padding.

        With ``embedding_scaling: once`` (ESM-2's), amino-acid masks are zero and all other embeddings are multiplied by
        ``0.88 / (1 - r)``, where r is the fraction of amino-acid masks among a sample's tokens. The released DPLM-2
        models were trained with the square of this factor (``released``). DPLM-2 Bit (``released_bit``) applies it
        first to the amino acids, with r their masked fraction, and then to both tracks.
        """
        table = self.model.esm.embeddings.word_embeddings
        embeddings_BTD = self.head.embed(table, input_ids_BT) * (input_ids_BT != self.vocabulary.pad).unsqueeze(-1)
        if self.embedding_scaling == "none":
            return embeddings_BTD
        masked_BT = input_ids_BT == self.vocabulary.mask_sequence
        real_BT = input_ids_BT != self.vocabulary.pad
        scale_BT = _esm_scale(masked_BT, real_BT)
        if self.embedding_scaling == "released":
            scale_BT = scale_BT.square()
        elif self.embedding_scaling == "released_bit":
            sequence_BT = self.vocabulary.is_sequence(input_ids_BT)
            scale_BT = scale_BT * torch.where(sequence_BT, _esm_scale(masked_BT, real_BT & sequence_BT), 1.0)
        scaled_BTD = embeddings_BTD * scale_BT.to(embeddings_BTD.dtype).unsqueeze(-1)
        return scaled_BTD.masked_fill(masked_BT.unsqueeze(-1), 0.0)

    def halves(self, input_ids_BT: Tensor) -> tuple[Tensor, int]:
        """Whether the batch has both tracks (a scalar bool tensor), and the number of tokens of each half if so."""
        half = max(input_ids_BT.shape[1] // 2, 1)
        # Kept as a tensor: reading its value would synchronise with the device. Rows may lack either track.
        starts_structure = (input_ids_BT[:, 0] == self.vocabulary.cls_structure).any()
        # Not ``[:, half]``: torch.compile would compile the network again for each length.
        return starts_structure & (input_ids_BT.narrow(1, half, 1) == self.vocabulary.cls_sequence).any(), half

    def positions(self, input_ids_BT: Tensor) -> Tensor:
        """Rotary positions (1, T); residue i has the same position in both halves."""
        column_T = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
        has_halves, half = self.halves(input_ids_BT)
        return torch.where(has_halves, column_T % half, column_T).unsqueeze(0)

    def attention_mask(self, input_ids_BT: Tensor, single_modality_B: Tensor | None) -> Tensor:
        """Additive attention mask: (B, 1, 1, T) for padding, (B, 1, T, T) with single-modality samples."""
        allowed = (input_ids_BT != self.vocabulary.pad)[:, None, None, :]
        if single_modality_B is not None:
            has_halves, half = self.halves(input_ids_BT)
            # By column rather than by id: self-mixup can place a token of one track on the other.
            second_T = (torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device) >= half) & has_halves
            same_track = second_T[:, None] == second_T[None, :]
            allowed = allowed & (same_track | ~single_modality_B[:, None, None, None])
        # Of autocast's type: it would round another type's lowest number to -inf.
        dtype = self._dtype
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        # The lowest finite number, because the softmax of a row of -inf (at padding) is NaN.
        return mask.masked_fill(~allowed, torch.finfo(dtype).min)

    @property
    def is_sequence_model(self) -> bool:
        """Whether the model has no structure tokens (yet), as DPLM and ESM-2."""
        return self.model.config.vocab_size < self.head.table_rows

    @property
    def opens_as_esm(self) -> bool:
        """Whether ``AutoModelForMaskedLM`` opens the saved folder: the head has no weights of its own."""
        return not self.head.state_dict()

    @property
    def description(self) -> dict[str, Any]:
        """The part of ``config.json`` that transformers does not know."""
        recommended = self.head.sampling
        return {
            "codebook_size": 0 if self.is_sequence_model else self.vocabulary.codebook_size,
            "tokenizer": self.tokenizer,
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
            "embedding_scaling": self.embedding_scaling,
            **self.head.description,
            **({} if recommended == type(self.head).sampling else {"sampling": asdict(recommended)}),
        }

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write a Hugging Face folder.

        ``AutoModelForMaskedLM`` opens it, too, unless the head has its own weights: it then rejects the unknown model
        type instead of omitting them.

        Raises
        ------
        DPLM2Error
            If LoRA weights are not merged yet.
        """
        if any("lora_" in name for name, _ in self.model.named_parameters()):
            raise DPLM2Error("merge the LoRA weights (dplm2.language.lora.merge) before saving")
        config = self.model.config.to_dict() | {"dplm2": self.description}
        if not self.opens_as_esm:
            config |= {"model_type": OWN_TYPE, "architectures": [OWN_CLASS]}
        weights = self.model.state_dict() | {HEAD + name: value for name, value in self.head.state_dict().items()}
        weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        save_tensors(Path(folder) / WEIGHTS_FILE, weights)
        write_json(Path(folder) / CONFIG_FILE, config)
        rows = SEQUENCE_IDS if self.is_sequence_model else len(self.vocabulary)
        write_vocabulary(Path(folder), self.vocabulary.tokens[:rows])
        write_model_card(folder, self)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, device: torch.device | str = "cpu") -> "MultimodalEsm":
        """Open a folder written by `save_pretrained`, or a hub id: of such a folder, or of the authors' models.

        Raises
        ------
        DPLM2Error
            If it is not a model of this package, or weights are missing, unknown or of wrong shape.
        """
        prepare_process()
        folder = model_folder(source)
        config = read_config(folder)
        described: Mapping | None = config.get("dplm2")
        if described is None:
            raise DPLM2Error(
                f"{source}: its config.json has no entry 'dplm2': not a model of this package; "
                "convert it with `dplm2 import model` (DPLM-2, DPLM) or `dplm2 model warmup` (a sequence model)"
            )
        vocabulary, head = vocabulary_and_head(folder, config)
        model = load_masked_lm(folder, head)
        rows = head.table_rows if described["codebook_size"] else SEQUENCE_IDS
        if model.config.vocab_size != rows:
            raise DPLM2Error(
                f"{source}: {model.config.vocab_size} ids in its weights, but its codebook_size "
                f"{vocabulary.codebook_size} requires {rows}"
            )
        network = cls(
            model,
            vocabulary,
            described.get("embedding_scaling", "none"),
            described.get("tokenizer"),
            described.get("tokenizer_fingerprint"),
            head,
        )
        return network.eval().to(device)


def _tokens_first(real_BT: Tensor) -> Tensor:
    """Order (B, T) of each sample's columns: tokens, then padding."""
    return real_BT.logical_not().to(torch.uint8).argsort(dim=1, stable=True)


def _in_original_order(hidden_BTD: Tensor, order_BT: Tensor) -> Tensor:
    """Hidden states of reordered columns, back in the original order (B, T) of the columns."""
    order_BTD = order_BT.unsqueeze(-1).expand_as(hidden_BTD)
    return torch.zeros_like(hidden_BTD).scatter(1, order_BTD, hidden_BTD)


def _with_padding(packed_1ND: Tensor, real_BT: Tensor) -> Tensor:
    """Hidden states (B, T, D) of packed tokens, 0 at padding."""
    hidden_BTD = packed_1ND.new_zeros((*real_BT.shape, packed_1ND.shape[-1]))
    return hidden_BTD.masked_scatter(real_BT.unsqueeze(-1), packed_1ND)


def _esm_scale(masked_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """ESM-2's scale (B, 1) of unmasked input, from the fraction of masks among the counted tokens."""
    fraction_B1 = masked_BT.sum(-1, keepdim=True) / counted_BT.sum(-1, keepdim=True).clamp(min=1)
    return _UNMASKED_IN_PRETRAINING / (1 - fraction_B1)
