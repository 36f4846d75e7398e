"""Networks with each structure head."""

import torch

from dplm2.language import heads
from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import Vocabulary


def network_with(head, codes=64, layout=(2, 2, 2), width=32, layers=2):
    """A network with random weights, including those of the head."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(codes)
    made = heads.make(head, vocabulary, width, layout)
    network = MultimodalEsm(Esm2(Esm2Config(made.table_rows, width, layers, 4, 2 * width)), vocabulary, head=made)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()
