"""Denoising of one batch: predict every open position, keep the most certain predictions, mask the others again.

Open positions are those that are generated. Paper section 3.2; the authors' sampler (reparameterised discrete
diffusion), with a random generator per sample. Logits are computed only for open positions and the classes of their
track, in slices.

Shapes: B samples, T tokens (both tracks), L residues of the longest sample, N positions, C classes, V vocabulary,
D model width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dplm2.language import layout
from dplm2.language.conditioning import Conditioning
from dplm2.language.filtering import draw, draw_gumbel, filtered_logits, take_best
from dplm2.language.network import MultimodalEsm
from dplm2.language.schedule import SamplerSettings, masked_count, masked_share
from dplm2.language.unmasking import lowest, noised_scores
from dplm2.language.vocabulary import Track, Vocabulary

_LOGITS_PER_SLICE_CPU = 2**21  # 8 MB in fp32, which fits into the processor's cache
_LOGITS_PER_SLICE_GPU = 2**27
_FORBIDDEN_BY_AUTHORS = "XBUZO"  # not '.', '-' and <null_1>, which the authors' program can therefore generate


class Uniforms(Protocol):
    """Source of a sample's random numbers, for example a numpy generator."""

    def random(self, size: int, dtype: type = np.float32) -> np.ndarray:
        """Uniform numbers in [0, 1)."""
        ...


@dataclass(frozen=True)
class Open:
    """Positions whose logits a callback receives."""

    track: Track
    classes: Tensor
    """Vocabulary ids (C,) of the columns."""
    row: Tensor
    """Index of the sample in the batch (N,)."""
    position: Tensor
    """Residue within the sample (N,), from 0."""
    tokens: Tensor
    """Ids (B, L) of the track before this step, including masks and padding."""
    sample_ids: Sequence[str]
    """Ids of the samples in the batch."""
    progress: Tensor
    """Completed fraction of the steps (N,)."""


Adjust = Callable[[Tensor, Open], Tensor]
"""A callback that receives logits (N, C) and returns those to be used; -inf forbids a class."""


@dataclass(frozen=True)
class Sampled:
    """A finished sample: ids and scores (L,) of each track; the score of a given token is NaN."""

    sample_id: str
    tokens: Mapping[Track, np.ndarray]
    scores: Mapping[Track, np.ndarray]
    steps: int
    """Number of steps run."""
    trajectory: tuple[tuple[int, Mapping[Track, np.ndarray]], ...] = ()
    """Predictions of the whole sample after some steps: (step, ids of each track)."""


class _TrackState:
    """One track of the batch: a view of its ids, its open positions, and the scores of its tokens."""

    def __init__(self, track: Track, vocabulary: Vocabulary, ids_BT: Tensor, offset: int, fixed: Sequence[np.ndarray]):
        self.track, self.mask, self.offset = track, vocabulary.mask(track), offset
        longest = max(len(row) for row in fixed)
        open_BL = np.zeros((len(fixed), longest), dtype=bool)
        for row_L, fixed_L in zip(open_BL, fixed, strict=True):
            row_L[: len(fixed_L)] = ~np.asarray(fixed_L)
        self.open_BL = torch.from_numpy(open_BL).to(ids_BT.device)
        self.scores_BL = torch.full(open_BL.shape, torch.nan, device=ids_BT.device)
        self.n_open = open_BL.sum(1).tolist()
        self.width = longest
        self.attach(ids_BT)

    def attach(self, ids_BT: Tensor) -> None:
        self.ids_BL = ids_BT[:, self.offset : self.offset + self.width]
        self.row_N, self.position_N = self.open_BL.nonzero(as_tuple=True)

    def keep(self, rows: list[int], ids_BT: Tensor) -> None:
        self.open_BL, self.scores_BL = self.open_BL[rows], self.scores_BL[rows]
        self.n_open = [self.n_open[row] for row in rows]
        self.attach(ids_BT)


class Denoiser:
    """Sampler of one batch.

    Parameters
    ----------
    network
        The language model.
    conditionings
        The samples; all have the same tracks.
    uniforms
        Source of random numbers of each sample.
    settings
        Settings of the sampler.
    adjust
        Callback that may change logits.
    trajectory
        Interval in steps at which predictions are recorded; 0: never.
    """

    def __init__(
        self,
        network: MultimodalEsm,
        conditionings: Sequence[Conditioning],
        uniforms: Sequence[Uniforms],
        settings: SamplerSettings,
        adjust: Adjust | None = None,
        trajectory: int = 0,
    ) -> None:
        self.network, self.settings, self.adjust, self.trajectory = network, settings, adjust, trajectory
        self.vocabulary, self.device = network.vocabulary, network.device
        self.samples, self.uniforms = list(conditionings), list(uniforms)
        self.step = [sample.first_step for sample in self.samples]
        self.snapshots: list[list] = [[] for _ in self.samples]
        self.ids_BT = layout.join(
            self.vocabulary,
            [sample.tokens.get("structure") for sample in self.samples],
            [sample.tokens.get("sequence") for sample in self.samples],
        ).to(self.device)
        names = self.samples[0].tracks
        half = self.ids_BT.shape[1] // len(names)
        self.tracks = [
            _TrackState(name, self.vocabulary, self.ids_BT, number * half + 1, [s.fixed[name] for s in self.samples])
            for number, name in enumerate(names)
        ]
        self.classes = {name: self._classes(name) for name in names}

    def _classes(self, track: Track) -> Tensor:
        allowed = list(self.vocabulary.generated(track))
        if track == "sequence" and self.settings.amino_acids == "official":
            edges_and_unknown = {
                *self.vocabulary.edges,
                self.vocabulary.unknown_sequence,
                self.vocabulary.mask_sequence,
            }
            forbidden = edges_and_unknown | set(self.vocabulary.encode_sequence(_FORBIDDEN_BY_AUTHORS).tolist())
            allowed = [index for index in self.vocabulary.classes(track) if index not in forbidden]
        return torch.tensor(allowed, device=self.device)

    def run(self, before_step: Callable[[], None] | None = None) -> Iterator[Sampled]:
        """Yield each sample as soon as it is finished: after its last step, or once no later step can change it.

        ``before_step`` is called before each step and may raise an exception to stop.
        """
        while True:
            yield from self._drop_finished()
            if not self.samples:
                return
            if before_step is not None:
                before_step()
            self.advance()

    def _left_masked(self, track: _TrackState, row: int) -> int:
        sample = self.samples[row]
        return masked_count(track.n_open[row], self.step[row], sample.steps, self.settings.schedule)

    def _drop_finished(self) -> Iterator[Sampled]:
        finished = [
            row
            for row, sample in enumerate(self.samples)
            if not any(track.n_open[row] for track in self.tracks)
            # The number of masks never increases, and decoded tokens change only by being masked again.
            or (self.step[row] > sample.first_step and not any(self._left_masked(track, row) for track in self.tracks))
        ]
        if not finished:
            return
        for row in finished:
            yield self._result(row)
        rows = [row for row in range(len(self.samples)) if row not in set(finished)]
        self.samples, self.uniforms, self.step, self.snapshots = (
            [items[row] for row in rows] for items in (self.samples, self.uniforms, self.step, self.snapshots)
        )
        self.ids_BT = self.ids_BT[rows]
        for track in self.tracks:
            track.keep(rows, self.ids_BT)

    def _result(self, row: int) -> Sampled:
        sample = self.samples[row]

        def of_sample(values_BL: Tensor) -> np.ndarray:
            return values_BL[row, : sample.length].cpu().numpy().copy()

        return Sampled(
            sample.sample_id,
            {track.track: of_sample(track.ids_BL) for track in self.tracks},
            {track.track: of_sample(track.scores_BL) for track in self.tracks},
            self.step[row] - sample.first_step,
            tuple(self.snapshots[row]),
        )

    @torch.inference_mode()
    def advance(self) -> None:
        """Run one step for every sample of the batch."""
        hidden_BTD = self.network.hidden(self.ids_BT)
        unconditional_BTD = None
        if self.settings.guidance != 1:
            unconditional_BTD = self.network.hidden(self._unconditional_ids())
        predictions = {}
        for track in self.tracks:
            predictions[track.track] = self._advance_track(track, hidden_BTD, unconditional_BTD)
        self.step = [step + 1 for step in self.step]
        if self.trajectory:
            self._record(predictions)

    def _unconditional_ids(self) -> Tensor:
        """Ids (B, T) with the given tokens masked, too."""
        ids_BT = self.ids_BT.clone()
        for track in self.tracks:
            part_BL = ids_BT[:, track.offset : track.offset + track.width]
            part_BL[~track.open_BL & ~self.vocabulary.is_edge(part_BL)] = track.mask
        return ids_BT

    def _advance_track(self, track: _TrackState, hidden_BTD: Tensor, unconditional_BTD: Tensor | None) -> Tensor:
        masked_BL = track.open_BL & (track.ids_BL == track.mask)
        candidates_BL = masked_BL if self.settings.remasking == "never" else track.open_BL
        fresh_BL, score_BL, kept_BL = self._predict(track, candidates_BL, hidden_BTD, unconditional_BTD)
        ranking_BL = torch.where(masked_BL, score_BL, kept_BL) if self.settings.remasking == "kept" else score_BL
        scale = self.settings.unmasking[track.track].noise
        if scale:
            shares = [
                masked_share(step + 1, sample.steps, self.settings.schedule)
                for step, sample in zip(self.step, self.samples, strict=True)
            ]
            scale_B = torch.tensor([scale * share for share in shares], device=self.device)
            uniform_BL = torch.full_like(score_BL, 0.5)
            uniform_BL[candidates_BL] = self._draw_uniforms(candidates_BL)
            ranking_BL = noised_scores(ranking_BL, scale_B, uniform_BL)
        counts = [
            masked_count(n, step + 1, sample.steps, self.settings.schedule)
            for n, step, sample in zip(track.n_open, self.step, self.samples, strict=True)
        ]
        masked_again_BL = lowest(ranking_BL, candidates_BL, torch.tensor(counts, device=self.device))
        revealed_BL = masked_BL & ~masked_again_BL
        predicted_BL = torch.where(masked_BL, fresh_BL, track.ids_BL)
        track.ids_BL.copy_(predicted_BL.masked_fill(masked_again_BL, track.mask))
        track.scores_BL = torch.where(revealed_BL, score_BL, track.scores_BL).masked_fill(masked_again_BL, torch.nan)
        return predicted_BL

    def _predict(
        self, track: _TrackState, candidates_BL: Tensor, hidden_BTD: Tensor, unconditional_BTD: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New tokens, their scores, and the scores of the current tokens (B, L), at the candidate positions."""
        row_N, position_N = track.row_N, track.position_N
        if candidates_BL is not track.open_BL:
            row_N, position_N = candidates_BL.nonzero(as_tuple=True)
        fresh_BL = track.ids_BL.clone()
        score_BL = torch.full(candidates_BL.shape, -torch.inf, device=self.device)
        kept_BL = score_BL.clone()
        strategy = self.settings.strategy[track.track]
        progress = torch.tensor([s / c.steps for s, c in zip(self.step, self.samples, strict=True)], device=self.device)
        columns = len(self.network.competing(track.track) if strategy.kind == "argmax" else self.classes[track.track])
        per_slice = _LOGITS_PER_SLICE_CPU if self.device.type == "cpu" else _LOGITS_PER_SLICE_GPU
        for part in torch.arange(len(row_N), device=self.device).split(max(1, per_slice // columns)):
            rows, positions = row_N[part], position_N[part]
            logits_NC, log_total_N = self._logits(track, rows, positions, hidden_BTD, unconditional_BTD)
            if self.adjust is not None:
                view = Open(
                    *(track.track, self.classes[track.track], rows, positions, track.ids_BL),
                    *([sample.sample_id for sample in self.samples], progress[rows]),
                )
                logits_NC = self.adjust(logits_NC, view)
            index_N, score_N, kept_N = self._choose(track, rows, positions, logits_NC, log_total_N, progress[rows])
            fresh_BL[rows, positions] = self.classes[track.track][index_N]
            score_BL[rows, positions] = score_N
            if kept_N is not None:
                kept_BL[rows, positions] = kept_N
        return fresh_BL, score_BL, kept_BL

    def _logits(
        self, track: _TrackState, rows: Tensor, positions: Tensor, hidden_BTD: Tensor, unconditional_BTD: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (N, C) of the classes that may be generated, and for argmax the log-normaliser (N,) over all classes.

        The latter only if both tracks share a softmax; otherwise an argmax is scored among the filtered classes.
        """
        name = track.track
        among_all = self.settings.strategy[name].kind == "argmax" and self.network.head.one_softmax

        def of(hidden_BTD: Tensor) -> Tensor:
            hidden_ND = hidden_BTD[rows, positions + track.offset]
            logits_of = self.network.logits if among_all else self.network.track_logits
            return logits_of(hidden_ND, name).float()

        logits = of(hidden_BTD)
        if unconditional_BTD is not None:
            unconditional = of(unconditional_BTD)
            logits = unconditional + self.settings.guidance * (logits - unconditional)
        log_total_N = logits.logsumexp(-1) if among_all else None
        classes = self.classes[name]
        first = (self.network.competing(name) if among_all else self.network.classes(name)).start
        if int(classes[-1] - classes[0]) == len(classes) - 1:  # a slice is a view, while indexing copies
            start = int(classes[0]) - first
            return logits[:, start : start + len(classes)], log_total_N
        return logits[:, classes - first], log_total_N

    def _choose(
        self,
        track: _TrackState,
        rows: Tensor,
        positions: Tensor,
        logits_NC: Tensor,
        log_total_N: Tensor | None,
        progress_N: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        strategy, classes = self.settings.strategy[track.track], self.classes[track.track]
        kept_N = None
        if self.settings.remasking == "kept":
            # The score of a masked position, which has no class, is not used.
            kept_N = torch.searchsorted(classes, track.ids_BL[rows, positions]).clamp_(max=len(classes) - 1)
        nucleus = self.settings.nucleus_of(track.track)
        if strategy.kind == "argmax":
            if log_total_N is None:
                log_total_N = filtered_logits(logits_NC, nucleus).logsumexp(-1)
            index_N, score_N = take_best(logits_NC, log_total_N)
            kept_score_N = None if kept_N is None else logits_NC.gather(-1, kept_N[:, None])[:, 0] - log_total_N
            return index_N, score_N, kept_score_N
        counts = torch.bincount(rows, minlength=len(self.samples)).tolist()
        temperature_N = strategy.temperature(progress_N)
        if strategy.kind == "gumbel_argmax":
            uniform = self._uniform_numbers([count * len(classes) for count in counts])
            return draw_gumbel(logits_NC, temperature_N, nucleus, uniform.view(-1, len(classes)), kept_N)
        return draw(logits_NC, temperature_N, nucleus, self._uniform_numbers(counts), kept_N)

    def _draw_uniforms(self, candidates_BL: Tensor) -> Tensor:
        return self._uniform_numbers(candidates_BL.sum(1).tolist())

    def _uniform_numbers(self, counts: list[int]) -> Tensor:
        """``counts[b]`` numbers from the source of each sample b, concatenated."""
        parts = [u.random(count, dtype=np.float32) for u, count in zip(self.uniforms, counts, strict=True) if count]
        return torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, np.float32)).to(self.device)

    def _record(self, predictions: Mapping[Track, Tensor]) -> None:
        for row, sample in enumerate(self.samples):
            if (self.step[row] - sample.first_step) % self.trajectory == 0:
                ids = {track: ids_BL[row, : sample.length].cpu().numpy() for track, ids_BL in predictions.items()}
                self.snapshots[row].append((self.step[row], ids))
