"""Metrics, each declared once: column name, title, unit, direction, denominator, source.

One module per family declares them; `registry` finds the declaration of a column. Column names of the evaluations and
labels, captions and headlines of the report are derived from these declarations.
"""
