"""Metrics, each declared once: column name, title, unit, which way is better, what it is a share of, source.

A module per family declares them; `registry` finds the declaration of a column. Evaluations take the names of their
columns from here, and the report its labels, captions and headlines.
"""
