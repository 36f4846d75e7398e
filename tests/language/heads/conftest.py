"""A network with each structure head."""

import pytest
from head_networks import network_with

from dplm2.language import heads


@pytest.fixture(params=heads.HEADS)
def network(request):
    """64 codes of three values of two bits."""
    return network_with(request.param)
