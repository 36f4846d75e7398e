"""Metrics, folding backends, benchmarks, published figures."""
