"""Curves in words: whether a quantity still improves, has levelled off, or has become worse again."""

import numpy as np

from dplm2.report.labels import number

END = 0.1  # share of the rows whose mean is the value at the start, or at the end
LATE = 0.25  # share of the training in which a curve that still improves has room for more
NOTICEABLE = 0.1  # of the total change: smaller ones are noise
FEW = 5  # rows: of fewer, only becoming worse on held-out chains is judged
SLIGHT = 0.02  # of the value: a change of less is none


def reading(steps: np.ndarray, values: np.ndarray, better: str | None, held_out: bool = False) -> str:
    """One sentence, without its subject, on the course of a metric.

    Parameters
    ----------
    steps, values
        Of each row, in order.
    better
        ``lower`` or ``higher``; None: neither, only the course is told.
    held_out
        Measured on chains that are not trained on: becoming worse is overfitting.
    """
    if len(values) < 2:
        return f"one value: {number(float(values[0]))}"
    start, end = _ends(values)
    if _level(values):
        return f"level at {number(end)}"
    course = f"{_moved(start, end)} from {number(start)} to {number(end)}"
    few = len(values) < FEW
    if better is None or (few and not held_out):
        return course
    sign = 1 if better == "lower" else -1
    smooth = _smoothed(values)
    best = int(np.argmin(sign * smooth))
    turn = float(smooth[best])
    gained, lost = sign * (start - turn), sign * (end - turn)
    if lost > NOTICEABLE * abs(gained):
        worse = "overfitting" if held_out else "training became worse"
        if sign * (end - start) > 0:
            return f"{course}: {worse}"
        before = f"{_moved(start, turn)} from {number(start)} to {number(turn)} at step {steps[best]:,.0f}"
        return f"{before}, then {_moved(turn, end)} to {number(end)}: {worse}"
    if few:
        return course
    late = int(np.argmax(steps >= steps[0] + (1 - LATE) * (steps[-1] - steps[0])))
    if sign * (smooth[late] - end) > NOTICEABLE * gained:
        return f"{course}, and was still improving: more steps should help"
    return f"{course}, and has levelled off"


def _ends(values: np.ndarray) -> tuple[float, float]:
    number_of = max(1, round(END * len(values)))
    return float(values[:number_of].mean()), float(values[-number_of:].mean())


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running means over the rows that make up an end, fewer at the borders."""
    width = max(1, round(END * len(values)))
    kernel = np.ones(width)
    return np.convolve(values, kernel, mode="same") / np.convolve(np.ones(len(values)), kernel, mode="same")


def _level(values: np.ndarray) -> bool:
    return np.ptp(values) <= SLIGHT * np.abs(values).max()


def _moved(one: float, other: float) -> str:
    return "rose" if other > one else "fell"
