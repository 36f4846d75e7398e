"""Benchmarks, one module per task; `job` is shared by those of samples."""
