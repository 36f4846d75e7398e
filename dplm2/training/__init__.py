"""One training loop for both models.

``loop.fit`` is the way in; ``task`` says what it wants to be given. ``settings`` checks the section ``training`` of the
configuration, ``batches`` orders the data, ``randomness`` seeds every choice by its place, ``run`` does the steps,
``snapshot`` and ``state`` keep what a stopped run goes on from, ``devices`` spreads the work over processes, ``log``
and ``summary`` tell what goes on.
"""
