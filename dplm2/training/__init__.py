"""One training loop for both models.

``loop.fit`` is the entry point; ``task`` defines its input. ``batches`` orders the data, ``randomness`` derives seeds,
``run`` does the steps, ``snapshot`` and ``state`` save what a stopped run resumes from, ``devices`` distributes the
work over processes, ``log`` and ``summary`` report progress.
"""
