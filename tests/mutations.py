"""The mutations of `tests.mutate`: changes of one expression or line of a source file.

Python files are changed by their syntax trees, rules files line by line. Messages, annotations and docstrings, on which
no test should depend, are not changed.
"""

import ast
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

BOUNDARIES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITES = {
    **{ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
ARITHMETIC = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult},
    **{ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
MESSAGES = {"debug", "info", "warning", "error", "warn"}  # methods that only print or log
SHOWN = {"desc", "unit", "metavar", "prefix"}  # keywords: progress bars, placeholders of options, temporary names
RULE_ENTRY = re.compile(r"^ {8}\w+=.*,$")  # a line of a directive's arguments
RULE_NUMBER = re.compile(r"^    (threads|retries|priority): (\d+)$")


@dataclass(frozen=True)
class Mutation:
    """A change of one part of a file, from byte ``start`` to ``end``."""

    path: str
    line: int
    column: int
    kind: str
    start: int
    end: int
    before: str
    after: str

    def applied(self, source: bytes) -> bytes:
        """The complete file with this change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutations(path: str, source: bytes) -> list[Mutation]:
    """All mutations of a file, in the order of the file."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    if path.endswith(".py"):
        found = (
            (
                node.lineno,
                kind,
                starts[node.lineno - 1] + node.col_offset,
                starts[node.end_lineno - 1] + node.end_col_offset,
                after,
            )
            for node, kind, after in _of_tree(ast.parse(source))
        )
    else:
        found = (
            (number, kind, starts[number - 1], starts[number], after)
            for number, line in enumerate(lines, 1)
            for kind, after in _of_rule_line(line.decode())
        )
    made = [
        Mutation(path, number, start - starts[number - 1], kind, start, end, source[start:end].decode(), after)
        for number, kind, start, end, after in found
    ]
    return sorted(set(made), key=lambda mutation: (mutation.start, mutation.end, mutation.after))


def _of_tree(tree: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    for node in _walk(tree):
        if isinstance(node, ast.expr):
            changes = ((kind, ast.unparse(changed)) for kind, changed in _of_expression(node))
            yield from ((node, kind, f"({text})") for kind, text in changes if text != ast.unparse(node))
        elif _can_go(node):
            yield node, "statement deleted", "pass"
        elif isinstance(node, ast.If | ast.While):
            yield node.test, "condition negated", f"(not ({ast.unparse(node.test)}))"


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those of messages, annotations, docstrings and formatted strings."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (name == "exc" and isinstance(node, ast.Raise)):
            continue
        for child in value if isinstance(value, list) else [value]:
            is_message = isinstance(child, ast.JoinedStr) or (isinstance(child, ast.Expr) and _says(child.value))
            if isinstance(child, ast.AST) and not is_message:
                yield from _walk(child)


def _says(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) or (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in MESSAGES
    )


def _can_go(node: ast.AST) -> bool:
    """Whether a statement can be deleted without undefined names."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    return isinstance(node, ast.Expr | ast.AugAssign | ast.Raise)


def _of_expression(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Compare(ops=[operator]):
            for kind, table in (("boundary", BOUNDARIES), ("comparison", OPPOSITES)):
                if type(operator) in table:
                    yield kind, _with(node, ops=[table[type(operator)]()])
        case ast.BinOp(op=operator) if type(operator) in ARITHMETIC and not _is_text(node.left, node.right):
            yield "arithmetic", _with(node, op=ARITHMETIC[type(operator)]())
        case ast.BoolOp(op=operator):
            yield "boolean", _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield "sign or not left out", node.operand
        case ast.IfExp():
            yield "condition negated", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Constant(value=bool(value)):
            yield "boolean", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (("constant", ast.Constant(value + by)) for by in (1, -1))
        case ast.Constant(value=float(value)):
            yield from (("constant", ast.Constant(changed)) for changed in (2 * value, value / 2) if changed != value)
        case ast.Call():
            for index, keyword in enumerate(node.keywords):
                if keyword.arg and keyword.arg not in SHOWN:
                    yield "keyword left out", _with(node, keywords=node.keywords[:index] + node.keywords[index + 1 :])
            for index in range(len(node.args) - 1):
                first, second = node.args[index : index + 2]
                if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
                    swapped = [*node.args[:index], second, first, *node.args[index + 2 :]]
                    yield "arguments swapped", _with(node, args=swapped)


def _with(node: ast.expr, **fields: object) -> ast.expr:
    changed = copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_text(*nodes: ast.expr) -> bool:
    return any(isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str) for node in nodes)


def _of_rule_line(line: str) -> Iterator[tuple[str, str]]:
    text = line.rstrip("\n")
    if RULE_ENTRY.match(text) and text.count("(") == text.count(")"):
        yield "argument left out", ""
    if number := RULE_NUMBER.match(text):
        yield "constant", f"    {number[1]}: {int(number[2]) + 1}\n"
    for one, other in (("=decides(", "=operates("), ("=operates(", "=decides("), ("=files(", "=operates(")):
        if one in text:
            yield "parameters swapped", line.replace(one, other)
