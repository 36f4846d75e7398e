"""Message passing with geometric vector perceptrons (Jing et al. 2020), as in the encoder of ESM-IF1.

A residue has scalars and vectors; vectors rotate with the structure, scalars do not. Messages pass along the edges of
the graph of nearest residues and are averaged at their destination.

The message function is three perceptrons on (source, edge, destination). Most of its cost is avoided without changing
its value: linear parts of the first perceptron are computed once per residue and gathered along the edges; linear parts
of the last one commute with the mean and are applied once per residue; only existing edges are computed. Edges are
processed in chunks that fit into the processor's cache.

Shapes: N residues of the batch without padding, E edges, S scalars, V vector channels, H hidden vector channels.
Vectors are stored with their channels last: (N, 3, V).
"""

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dplm2.cpu.caching import cached_from_weights
from dplm2.cpu.products import Linear, linear, prepacked
from dplm2.settings.tokenizer import EncoderSettings
from dplm2.tokenizer.features import (
    EDGE_SCALARS,
    EDGE_VECTORS,
    NODE_SCALARS,
    NODE_VECTORS,
    NORM_EPSILON,
    Edges,
    radial_basis,
)

VECTOR_NORM_EPSILON = 1e-4  # in the normalisation of vectors between layers
BYTES_PER_CHUNK = {"cpu": 2**21, "cuda": 2**28}  # of the edges' scalars; on a CPU, to fit into its cache
BYTES_PER_CHUNK_ELSEWHERE = 2**26
Channels = tuple[int, int]


def norms(vectors_N3V: Tensor) -> Tensor:
    """Lengths of vectors (N, V); never exactly zero, so that the gradient is finite."""
    x, y, z = vectors_N3V.unbind(-2)
    squares = torch.addcmul(torch.full((), NORM_EPSILON, dtype=x.dtype, device=x.device), x, x)
    return squares.addcmul_(y, y).addcmul_(z, z).sqrt_()


class Perceptron(nn.Module):
    """A geometric vector perceptron.

    Scalars are mixed with the lengths of mixed vectors; vectors are mixed linearly and, if ``activated``, scaled by a
    gate computed from the new scalars.
    """

    def __init__(self, inputs: Channels, outputs: Channels, activated: bool) -> None:
        super().__init__()
        hidden = max(inputs[1], outputs[1])
        self.hidden = Linear(inputs[1], hidden, bias=False)
        self.scalar = Linear(inputs[0] + hidden, outputs[0])
        self.vector = Linear(hidden, outputs[1], bias=False)
        self.gate = Linear(outputs[0], outputs[1]) if activated else None

    def forward(self, scalars_NS: Tensor, vectors_N3V: Tensor) -> tuple[Tensor, Tensor]:
        """New scalars and vectors."""
        hidden_N3H = self.hidden(vectors_N3V)
        joined = torch.cat([scalars_NS, norms(hidden_N3H)], -1)
        if self.gate is None:
            return self.scalar(joined), self.vector(hidden_N3H)
        scalars = F.relu_(self.scalar(joined))
        return scalars, self.gated(scalars, self.vector(hidden_N3H))

    def gated(self, scalars_NS: Tensor, vectors_N3V: Tensor) -> Tensor:
        """Vectors scaled by the gate of the new scalars; ``vectors_N3V`` may be overwritten."""
        gate = self.gate(scalars_NS).sigmoid_()[:, None, :]
        return vectors_N3V * gate if torch.is_grad_enabled() else vectors_N3V.mul_(gate)


class Normalisation(nn.Module):
    """Layer normalisation of scalars; vectors are divided by the root mean square length of nonzero vectors."""

    def __init__(self, scalars: int) -> None:
        super().__init__()
        self.scalar = nn.LayerNorm(scalars)

    def forward(self, scalars_NS: Tensor, vectors_N3V: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised scalars and vectors."""
        x, y, z = vectors_N3V.unbind(-2)
        squares = (torch.addcmul(torch.addcmul(x * x, y, y), z, z) + VECTOR_NORM_EPSILON)[:, None, :]
        nonzero = squares > 2 * VECTOR_NORM_EPSILON
        mean = (squares * nonzero).sum(-1, keepdim=True) / (VECTOR_NORM_EPSILON + nonzero.sum(-1, keepdim=True))
        return self.scalar(scalars_NS), nonzero * (vectors_N3V / torch.sqrt(mean + VECTOR_NORM_EPSILON))


class ChannelDropout(nn.Module):
    """Dropout of scalars, and of whole vectors."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, scalars_NS: Tensor, vectors_N3V: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars and vectors, some of them zero in training."""
        if not self.training or self.probability == 0:
            return scalars_NS, vectors_N3V
        kept = F.dropout(torch.ones_like(vectors_N3V[:, :1]), self.probability)
        return F.dropout(scalars_NS, self.probability), vectors_N3V * kept


class MessageLayer(nn.Module):
    """One round of messages, then a feed-forward part per residue; both are residual and followed by normalisation."""

    def __init__(self, node: Channels, edge: Channels, dropout: float) -> None:
        super().__init__()
        inputs = 2 * node[0] + edge[0], 2 * node[1] + edge[1]
        wide = 4 * node[0], 2 * node[1]
        self.node, self.edge = node, edge
        self.message = nn.ModuleList(
            [Perceptron(inputs, node, True), Perceptron(node, node, True), Perceptron(node, node, False)]
        )
        self.feedforward = nn.ModuleList([Perceptron(node, wide, True), Perceptron(wide, node, False)])
        self.norms = nn.ModuleList([Normalisation(node[0]), Normalisation(node[0])])
        self.dropout = ChannelDropout(dropout)

    def forward(
        self, scalars_NS: Tensor, vectors_N3V: Tensor, edges: Edges, precision: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Updated scalars and vectors of each residue; ``precision`` is that of the updates."""
        added = self.dropout(*self.mean_message(scalars_NS.to(precision), vectors_N3V.to(precision), edges))
        scalars, vectors = self.norms[0](scalars_NS + added[0], vectors_N3V + added[1])
        added = scalars.to(precision), vectors.to(precision)
        for perceptron in self.feedforward:
            added = perceptron(*added)
        added = self.dropout(*added)
        return self.norms[1](scalars + added[0], vectors + added[1])

    def mean_message(self, scalars_NS: Tensor, vectors_N3V: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Mean of the messages into each residue; zero if there are none.

        With weights W split along their input, the first perceptron's hidden vectors are
        ``Ws v[source] + We e + Wd v[destination]``, gathered from products computed per residue; likewise for the
        scalars and for the output vectors (whose weights are multiplied by W beforehand). In the last perceptron
        scalars are ``A [s, |H v|] + b`` and vectors ``U H v``: s, |H v| and H v are averaged over the edges, and the
        means multiplied by A and U per residue.
        """
        _, second, last = self.message
        tables, residues, sums = self._tables(scalars_NS, vectors_N3V), len(scalars_NS), []
        max_edges = BYTES_PER_CHUNK.get(scalars_NS.device.type, BYTES_PER_CHUNK_ELSEWHERE) // tables.scalars[0].nbytes
        for run, starts in chunks(edges.destination_E, residues, max_edges):
            chunk = Edges(*(column[run] for column in edges))
            scalars, vectors = second(*self._first(tables, chunk, residues))
            hidden = last.hidden(vectors)
            sums.append([sum_of_runs(values, starts) for values in (scalars, norms(hidden), hidden.flatten(1))])
        scalars, lengths, hidden = (torch.cat(parts).float() for parts in zip(*sums, strict=True))
        incoming = torch.bincount(edges.destination_E, minlength=residues)[:, None]
        weight = 1.0 / incoming.clamp(min=1)
        dtype = scalars_NS.dtype
        scalars = last.scalar(torch.cat([scalars, lengths], -1).mul_(weight).to(dtype)) * (incoming > 0)
        return scalars, last.vector((hidden * weight).to(dtype).unflatten(1, (3, -1)))

    def _tables(self, scalars_NS: Tensor, vectors_N3V: Tensor) -> "Tables":
        weights = cached_from_weights(self.message[0], scalars_NS.dtype, lambda: self._split_weights(scalars_NS.dtype))
        source, destination, bias, along = weights["scalar"]
        scalars = torch.cat([linear(scalars_NS, source, bias), linear(scalars_NS, destination)])
        vectors = []
        for name in ("hidden", "vector"):
            source, destination, edge = weights[name]
            rows = [linear(vectors_N3V, source).flatten(0, 1), linear(vectors_N3V, destination).flatten(0, 1), edge]
            vectors.append(torch.cat(rows))
        return Tables(scalars, *vectors, along)

    def _split_weights(self, dtype: torch.dtype) -> dict[str, tuple[Tensor, ...]]:
        """The first perceptron's weights of the source, the destination and the edge."""
        first = self.message[0]
        sizes = [self.node[1], self.edge[1], self.node[1]]
        parts = {}
        vector_weight = first.vector.weight @ first.hidden.weight
        for name, weight in {"hidden": first.hidden.weight, "vector": vector_weight}.items():
            source, edge, destination = weight.to(dtype).split(sizes, dim=1)
            parts[name] = prepacked(source), prepacked(destination), edge.t()
        weight, bias = first.scalar.weights(dtype)
        sizes = [self.node[0], self.edge[0], self.node[0], first.hidden.out_features]
        source, edge, destination, lengths = weight.split(sizes, dim=1)
        parts["scalar"] = prepacked(source), prepacked(destination), bias, prepacked(torch.cat([lengths, edge], 1))
        return parts

    def _first(self, tables: "Tables", edges: Edges, residues: int) -> tuple[Tensor, Tensor]:
        rows_E2 = torch.stack([edges.source_E, edges.destination_E + residues], 1)
        lengths = norms(sum_of_vectors(tables.hidden, rows_E2, edges.vectors_E3V))
        scalars = F.embedding_bag(rows_E2, tables.scalars, mode="sum")
        along = linear(torch.cat([lengths, edges.scalars_EF], -1), tables.along)
        scalars = F.relu_(scalars + along)
        return scalars, self.message[0].gated(scalars, sum_of_vectors(tables.vectors, rows_E2, edges.vectors_E3V))


class Tables(NamedTuple):
    """The first perceptron's products per residue, gathered along the edges.

    Attributes
    ----------
    scalars
        (2 N, S): rows of the residues as sources, then as destinations.
    hidden, vectors
        (2 N 3 + edge vectors, V): the same with three rows per residue, then the weights of the edge's vectors.
    along
        Weight of the lengths and of the edge's scalars.
    """

    scalars: Tensor
    hidden: Tensor
    vectors: Tensor
    along: Tensor


def sum_of_vectors(table: Tensor, rows_E2: Tensor, vectors_E3C: Tensor) -> Tensor:
    """Sums (E, 3, V) of both residues' rows of a table and of the edge's vectors times their weights."""
    channels = vectors_E3C.shape[-1]
    if torch.is_grad_enabled():
        residues = table[:-channels].view(-1, 3 * table.shape[1])
        sums = F.embedding_bag(rows_E2, residues, mode="sum").unflatten(1, (3, -1))
        for channel in range(channels):
            sums = sums.addcmul_(vectors_E3C[:, :, channel, None], table[len(table) - channels + channel])
        return sums
    # One weighted gather, in which the edge's vectors are the weights of the last rows: in bfloat16 a separate product
    # and sum take three times longer.
    device = table.device
    rows_E32 = 3 * rows_E2[:, None, :] + torch.arange(3, device=device)[:, None]
    of_edges = torch.arange(len(table) - channels, len(table), device=device).expand(len(rows_E2), 3, -1)
    rows = torch.cat([rows_E32, of_edges], -1).flatten(0, 1)
    weights = torch.cat([torch.ones_like(rows_E32, dtype=table.dtype), vectors_E3C], -1).flatten(0, 1)
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights).unflatten(0, (-1, 3))


def chunks(destination_E: Tensor, residues: int, max_edges: int) -> Iterator[tuple[slice, Tensor]]:
    """Divide sorted edges into runs of complete residues, of at most ``max_edges`` unless a residue has more.

    Yields
    ------
    tuple
        The run, and the start of each of its residues' edges within it.
    """
    starts = torch.searchsorted(destination_E, torch.arange(residues + 1, device=destination_E.device))
    bounds, first = starts.tolist(), 0
    while first < residues:
        end = max(first + 1, bisect.bisect_right(bounds, bounds[first] + max_edges) - 1)
        yield slice(bounds[first], bounds[end]), starts[first:end] - bounds[first]
        first = end


def sum_of_runs(values_EF: Tensor, starts: Tensor) -> Tensor:
    """Sums of the runs of rows that begin at ``starts``."""
    return F.embedding_bag(torch.arange(len(values_EF), device=values_EF.device), values_EF, starts, mode="sum")


class GvpNetwork(nn.Module):
    """Embedding of residues and edges, then rounds of messages."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        node = settings.node_scalars, settings.node_vectors
        edge = settings.edge_scalars, settings.edge_vectors
        self.node_embedding = Perceptron((NODE_SCALARS, NODE_VECTORS), node, False)
        self.node_norm = Normalisation(node[0])
        self.edge_embedding = Perceptron((EDGE_SCALARS, EDGE_VECTORS), edge, False)
        self.edge_norm = Normalisation(edge[0])
        self.confidence = Linear(16, node[0])
        self.layers = nn.ModuleList([MessageLayer(node, edge, settings.dropout) for _ in range(settings.gvp_layers)])

    def forward(
        self,
        scalars_NF: Tensor,
        vectors_NC3: Tensor,
        confidence_N: Tensor,
        edges: Edges,
        precision: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Scalars (N, S) and vectors (N, 3, V) after the last layer.

        Parameters
        ----------
        scalars_NF, vectors_NC3
            Input features of each residue.
        confidence_N
            1 for residues with coordinates, 0 for others.
        edges
            The graph and its input features.
        precision
            Precision of the products in the layers; residual streams are in float32.
        """
        scalars, vectors = self.node_norm(*self.node_embedding(scalars_NF, vectors_NC3.transpose(-1, -2)))
        scalars = scalars + self.confidence(radial_basis(confidence_N, 1.0))
        along = self.edge_norm(*self.edge_embedding(edges.scalars_EF, edges.vectors_E3V))
        edges = Edges(edges.source_E, edges.destination_E, *(features.to(precision) for features in along))
        for layer in self.layers:
            scalars, vectors = layer(scalars, vectors, edges, precision)
        return scalars, vectors
