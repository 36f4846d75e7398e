"""Structures in 3-D: ribbons on a page of their own, in a notebook, or in the report; no network is needed."""

from dplm2.viewer.html import viewer_html
from dplm2.viewer.scenes import Scene, Structure

__all__ = ["Scene", "Structure", "viewer_html"]
