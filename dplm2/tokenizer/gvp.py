"""Message passing with geometric vector perceptrons (Jing et al. 2020), as in the encoder of ESM-IF1.

A residue carries scalars and vectors; vectors turn with the structure, scalars do not. Messages run along the edges of
the graph of nearest residues and are averaged where they arrive.

The message function is three perceptrons on (source, edge, destination). Most of its cost is avoided without changing
its value: what the first perceptron computes linearly from a residue is computed once per residue and gathered along
the edges; what is linear in the last one commutes with the mean and is applied once per residue; edges that do not
exist are not there. Edges are worked on in pieces that stay in the processor's cache.

Shape legend: N residues of the batch without padding, E edges, S scalars, V vector channels, H hidden vector channels.
Vectors are stored with their channels last: (N, 3, V).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dplm2.tokenizer.features import (
    EDGE_SCALARS,
    EDGE_VECTORS,
    NODE_SCALARS,
    NODE_VECTORS,
    NORM_EPSILON,
    Edges,
    radial_basis,
)
from dplm2.tokenizer.products import Linear, linear
from dplm2.tokenizer.settings import EncoderSettings

VECTOR_NORM_EPSILON = 1e-4  # of the normalisation of vectors between layers
EDGES_PER_PIECE = {"cpu": 1024, "cuda": 2**16}  # on a processor, what its cache holds
EDGES_PER_PIECE_ELSEWHERE = 2**14
Channels = tuple[int, int]


def norms(vectors_N3V: Tensor) -> Tensor:
    """Lengths of vectors, (N, V); never exactly zero, so that the gradient is finite."""
    x, y, z = vectors_N3V.unbind(-2)
    squares = torch.addcmul(torch.addcmul(x * x, y, y), z, z)
    return torch.sqrt(squares + NORM_EPSILON)


class Perceptron(nn.Module):
    """A geometric vector perceptron.

    Scalars are mixed with the lengths of mixed vectors; vectors are mixed linearly and, if ``activated``, scaled by a
    gate that the new scalars open.
    """

    def __init__(self, inputs: Channels, outputs: Channels, activated: bool) -> None:
        super().__init__()
        self.inputs = inputs
        hidden = max(inputs[1], outputs[1])
        self.hidden = Linear(inputs[1], hidden, bias=False)
        self.scalar = Linear(inputs[0] + hidden, outputs[0])
        self.vector = Linear(hidden, outputs[1], bias=False)
        self.gate = Linear(outputs[0], outputs[1]) if activated else None

    def forward(
        self, scalars_NS: Tensor, vectors_N3V: Tensor, cut: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """New scalars and vectors; with ``cut_weights`` for many calls, scalars and lengths need not be joined."""
        hidden_N3H = self.hidden(vectors_N3V)
        lengths = norms(hidden_N3H)
        if cut is None:
            scalars = self.scalar(torch.cat([scalars_NS, lengths], -1))
        else:
            scalars = linear(lengths, cut[1], added=linear(scalars_NS, cut[0], cut[2]))
        return self.activate(scalars, self.vector(hidden_N3H))

    def cut_weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of the scalars' product for its scalars and for its lengths, and the bias."""
        weight, bias = self.scalar.weights(dtype)
        return weight[:, : self.inputs[0]].contiguous(), weight[:, self.inputs[0] :].contiguous(), bias

    def activate(self, scalars_NS: Tensor, vectors_N3V: Tensor) -> tuple[Tensor, Tensor]:
        """The non-linear end: rectified scalars, gated vectors. It may overwrite its input."""
        if self.gate is None:
            return scalars_NS, vectors_N3V
        scalars = F.relu_(scalars_NS)
        gate = torch.sigmoid(self.gate(scalars))[:, None, :]
        if torch.is_grad_enabled():
            return scalars, vectors_N3V * gate
        return scalars, vectors_N3V.mul_(gate)


class Normalisation(nn.Module):
    """Layer normalisation of scalars; vectors are divided by the root mean square length of those that are not zero."""

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
        """Scalars and vectors, some of them zero while training."""
        if not self.training or self.probability == 0:
            return scalars_NS, vectors_N3V
        kept = F.dropout(torch.ones_like(vectors_N3V[:, :1]), self.probability)
        return F.dropout(scalars_NS, self.probability), vectors_N3V * kept


class MessageLayer(nn.Module):
    """One round of messages, then a feed-forward part on each residue; both are residual and normalised after."""

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
        """Updated scalars and vectors of each residue; ``precision`` is that of what is added to them."""
        added = self.dropout(*self.mean_message(scalars_NS.to(precision), vectors_N3V.to(precision), edges))
        scalars, vectors = self.norms[0](scalars_NS + added[0], vectors_N3V + added[1])
        added = scalars.to(precision), vectors.to(precision)
        for perceptron in self.feedforward:
            added = perceptron(*added)
        added = self.dropout(*added)
        return self.norms[1](scalars + added[0], vectors + added[1])

    def mean_message(self, scalars_NS: Tensor, vectors_N3V: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Mean over the messages that arrive at each residue; zero where none does.

        With weights W cut along their input, the first perceptron's hidden vectors are
        ``Ws v[source] + We e + Wd v[destination]``, a gather of products made per residue, and likewise for the
        scalars and for the outgoing vectors (whose weights are multiplied by W beforehand). In the last perceptron
        scalars are ``A [s, |H v|] + b`` and vectors ``U H v``: the means of s, of |H v| and of H v are taken along the
        edges and multiplied by A and U per residue.
        """
        _, second, last = self.message
        dtype = scalars_NS.dtype
        parts, cut = self._first_parts(scalars_NS, vectors_N3V), second.cut_weights(dtype)
        residues, (node_scalars, node_vectors) = len(scalars_NS), self.node
        sum_scalars = scalars_NS.new_zeros(residues, node_scalars, dtype=torch.float32)
        sum_norms = scalars_NS.new_zeros(residues, node_vectors, dtype=torch.float32)
        sum_hidden = scalars_NS.new_zeros(residues, 3, node_vectors, dtype=torch.float32)
        step = EDGES_PER_PIECE.get(scalars_NS.device.type, EDGES_PER_PIECE_ELSEWHERE)
        for start in range(0, len(edges.source_E), step):
            piece = Edges(*(column[start : start + step] for column in edges))
            scalars, vectors = second(*self._first(parts, piece, residues), cut)
            hidden = last.hidden(vectors)
            sum_scalars.index_add_(0, piece.destination_E, scalars.float())
            sum_norms.index_add_(0, piece.destination_E, norms(hidden).float())
            sum_hidden.index_add_(0, piece.destination_E, hidden.float())
        arriving = torch.bincount(edges.destination_E, minlength=residues)[:, None]
        share = 1.0 / arriving.clamp(min=1)
        scalars = last.scalar(torch.cat([sum_scalars, sum_norms], -1).mul(share).to(dtype)) * (arriving > 0)
        return scalars, last.vector((sum_hidden * share[:, :, None]).to(dtype))

    def _first_parts(self, scalars_NS: Tensor, vectors_N3V: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        # Each entry: products with the residues as sources, then as destinations, below one another so that a message
        # is the sum of two rows; and the weights that are left for the edge.
        first = self.message[0]
        cuts = [self.node[1], self.edge[1], self.node[1]]
        parts = {}
        for name, whole in {"hidden": first.hidden.weight, "vector": first.vector.weight @ first.hidden.weight}.items():
            source, edge, destination = whole.to(vectors_N3V.dtype).split(cuts, dim=1)
            rows = torch.cat([linear(vectors_N3V, source), linear(vectors_N3V, destination)])
            parts[name] = rows.flatten(1), edge
        weight, bias = first.scalar.weights(scalars_NS.dtype)
        cuts = [self.node[0], self.edge[0], self.node[0], first.hidden.out_features]
        source, edge, destination, lengths = weight.split(cuts, dim=1)
        rows = torch.cat([linear(scalars_NS, source, bias), linear(scalars_NS, destination)])
        parts["scalar"] = rows, torch.cat([lengths, edge], 1)
        return parts

    def _first(self, parts: dict[str, tuple[Tensor, Tensor]], edges: Edges, residues: int) -> tuple[Tensor, Tensor]:
        rows_E2 = torch.stack([edges.source_E, edges.destination_E + residues], 1)

        def vectors_of(name: str) -> Tensor:
            table, weight = parts[name]
            vectors = F.embedding_bag(rows_E2, table, mode="sum").unflatten(1, (3, -1))
            for channel in range(self.edge[1]):
                vectors = vectors.addcmul_(edges.vectors_E3V[:, :, channel, None].to(table.dtype), weight[:, channel])
            return vectors

        table, weight = parts["scalar"]
        lengths = norms(vectors_of("hidden"))
        along = torch.cat([lengths, edges.scalars_EF.to(lengths.dtype)], -1)
        scalars = linear(along, weight, added=F.embedding_bag(rows_E2, table, mode="sum"))
        return self.message[0].activate(scalars, vectors_of("vector"))


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
            1 where a residue has coordinates, 0 where not.
        edges
            The graph and its input features.
        precision
            Of the products in the layers; what they are added to stays in float32.
        """
        scalars, vectors = self.node_norm(*self.node_embedding(scalars_NF, vectors_NC3.transpose(-1, -2)))
        scalars = scalars + self.confidence(radial_basis(confidence_N, 1.0))
        along = self.edge_norm(*self.edge_embedding(edges.scalars_EF, edges.vectors_E3V))
        edges = Edges(edges.source_E, edges.destination_E, *(features.to(precision) for features in along))
        for layer in self.layers:
            scalars, vectors = layer(scalars, vectors, edges, precision)
        return scalars, vectors
