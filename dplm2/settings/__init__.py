"""The configuration as typed models: the single source of every key's meaning, bounds, default and effect."""

from dplm2.settings.configuration import Configuration
from dplm2.settings.fields import Section, deciding, operating
from dplm2.settings.loading import load

__all__ = ["Configuration", "Section", "deciding", "load", "operating"]
