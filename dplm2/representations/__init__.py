"""Representations of proteins, and what can be predicted from them."""
