"""Curves in words: whether a quantity still improves, has levelled off, or has become worse again."""

import numpy as np

from dplm2.report.labels import number

END = 0.1  # share of the rows whose mean is the value at the start, or at the end
LATE = 0.25  # share of the training in which a curve that still improves has room for more
NOTICEABLE = 0.1  # of the total change: smaller ones are noise
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
    start, end = _ends(values)
    if len(values) < 2:
        return f"one value: {number(float(values[0]))}"
    course = f"{number(start)} to {number(end)}"
    if better is None or _same(start, end, values):
        return f"{_moved(start, end)} from {course}" if not _same(start, end, values) else f"level at {number(end)}"
    sign = 1 if better == "lower" else -1
    smooth = _smoothed(values)
    best = int(np.argmin(sign * smooth))
    gained = sign * (start - smooth[best])
    lost = sign * (end - smooth[best])
    verb = _moved(start, end)
    if sign * (end - start) > 0 and lost > NOTICEABLE * abs(gained):
        return f"{verb} from {course}: {_worse(held_out)}"
    if lost > NOTICEABLE * abs(gained):
        turned = f"{number(float(smooth[best]))} at step {steps[best]:,.0f}"
        return f"{_moved(start, smooth[best])} from {number(start)} to {turned}, then {_moved(smooth[best], end)} to {number(end)}: {_worse(held_out)}"
    late = steps >= steps[0] + (1 - LATE) * (steps[-1] - steps[0])
    recent = sign * (smooth[np.argmax(late)] - end)
    if recent > NOTICEABLE * gained:
        return f"{verb} from {course}, and was still improving: more steps should help"
    return f"{verb} from {course}, and has levelled off"


def _ends(values: np.ndarray) -> tuple[float, float]:
    number_of = max(1, round(END * len(values)))
    return float(values[:number_of].mean()), float(values[-number_of:].mean())


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running means over the rows that make up an end, fewer at the borders."""
    width = max(1, round(END * len(values)))
    kernel = np.ones(width)
    return np.convolve(values, kernel, mode="same") / np.convolve(np.ones(len(values)), kernel, mode="same")


def _same(one: float, other: float, values: np.ndarray) -> bool:
    return (
        abs(one - other) <= SLIGHT * max(abs(one), abs(other)) and np.ptp(values) <= 2 * SLIGHT * np.abs(values).max()
    )


def _moved(one: float, other: float) -> str:
    return "rose" if other > one else "fell"


def _worse(held_out: bool) -> str:
    return "overfitting" if held_out else "training became worse"
