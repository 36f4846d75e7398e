"""What computes structures and sequences for the benchmarks: folding, sequence design, alignment, clustering."""
