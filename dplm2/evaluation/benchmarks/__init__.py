"""Benchmarks, one module a task; `job` holds what those of samples share."""
