"""One training loop for both models: batches, optimiser, checkpoints, resume, distribution, log."""
