"""The configuration as typed models: the only definition of each key's meaning, bounds, default and effect."""

from dplm2.settings.configuration import Configuration
from dplm2.settings.fields import Section
from dplm2.settings.loading import load
from dplm2.settings.roles import deciding, operating

__all__ = ["Configuration", "Section", "deciding", "load", "operating"]
