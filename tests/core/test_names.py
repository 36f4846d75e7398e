"""Unique names, and file names derived from them."""

from dplm2.core.names import LONGEST_FILE_NAME, file_names, numbered


def test_equal_names_are_numbered():
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]
    assert numbered(["a", "a", "a-2", "a-2"]) == ["a", "a-3", "a-2", "a-2-2"]


def test_a_safe_name_is_kept():
    names = ["1abc_A", "a+b-c.d", "1abc_B"]
    assert file_names(names) == names


def test_clashing_names_are_made_unique_in_any_order():
    names = ["sp|P1/A", "sp|P1_A", "sp_P1_A", "x", "X", "...", "?", "é", "y" * 400, "y" * 401, "."]
    made = dict(zip(names, file_names(names), strict=True))
    assert made["sp_P1_A"] == "sp_P1_A"
    assert len({name.casefold() for name in made.values()}) == len(names)
    assert all(name.isascii() and "/" not in name and 0 < len(name) <= LONGEST_FILE_NAME for name in made.values())
    assert not any(name.startswith(".") for name in made.values())
    reordered = names[::-1]
    again = dict(zip(reordered, file_names(reordered), strict=True))
    assert {name: again[name] for name in names[:5]} == {name: made[name] for name in names[:5]}
