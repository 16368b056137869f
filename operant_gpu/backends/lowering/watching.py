"""Watching: environment functions on NumPy that tell what each of their statements comes to."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from operant_gpu.backends.lowering.operations import TableSeen
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.backends.lowering.rewriting import source_of

# Functions of the library that authors call: what they come to is told, how they do it is not.
_LIBRARY = ("operant_gpu.arrays", "operant_gpu.random", "operant_gpu.sampling", "operant_gpu.metrics")


class Statement(NamedTuple):
    """What one statement of an environment's function came to.

    Attributes:
        file: Where it stands.
        line: Likewise, from 1.
        function: Name of the function.
        text: The statement, in one line.
        values: What its names stand for after it, NumPy arrays with one row for each environment, or numbers; of
            "return" what the function gives, by field or place.
    """

    file: str
    line: int
    function: str
    text: str
    values: dict[str, Any]

    @property
    def is_finite(self) -> bool:
        """Whether all of its blocks are finite; numbers that are compiled in may be anything."""
        return all(np.isfinite(one).all() for one in self.values.values() if _is_block(one))


def watched(function: Any, tell: Callable[[Statement], None]) -> Any:
    """Return the NumPy form of a jit function, which tells of each statement, of it and of what it calls, in turn."""

    def also(original: FunctionType, tree: ast.FunctionDef, namespace: dict[str, Any]) -> ast.FunctionDef:
        if original.__module__ in _LIBRARY:
            return tree
        texts = _texts(*source_of(original))

        def note(line: int, column: int, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
            named = {name: one for own, value in zip(names, values, strict=True) for name, one in _parts(own, value)}
            file = original.__code__.co_filename
            tell(Statement(file, line, original.__name__, texts.get((line, column), ""), named))

        namespace[_NOTE] = note
        watching: ast.FunctionDef = _Watching().visit(tree)
        return watching

    return lower_to_numpy(function, {}, also)


_NOTE, _RESULT = "__note", "__result"


class _Watching(ast.NodeTransformer):
    """Puts a call behind each assignment, and before each return."""

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        names = [one.id for one in ast.walk(node.targets[0]) if isinstance(one, ast.Name)]
        return [node, self._call(node, names, [_name(name) for name in names])]

    def visit_Return(self, node: ast.Return) -> list[ast.stmt]:
        if node.value is None:
            return [node]
        kept = ast.Assign([ast.Name(_RESULT, ast.Store())], node.value)
        returned = ast.Return(_name(_RESULT))
        for one in (kept, returned):
            ast.copy_location(one, node)
        return [kept, self._call(node, ["return"], [_name(_RESULT)]), returned]

    @staticmethod
    def _call(node: ast.stmt, names: list[str], values: list[ast.expr]) -> ast.stmt:
        texts: list[ast.expr] = [ast.Constant(name) for name in names]
        given = [
            ast.Constant(node.lineno),
            ast.Constant(node.col_offset),
            ast.Tuple(texts, ast.Load()),
            ast.Tuple(values, ast.Load()),
        ]
        return ast.copy_location(ast.Expr(ast.Call(_name(_NOTE), given, [])), node)


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _texts(source: str, first_line: int) -> dict[tuple[int, int], str]:
    """Return the statements of a function, each in one line, by the line and the column where they begin."""
    tree = ast.parse(source)
    kinds = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return
    simple = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return {(node.lineno + first_line - 1, node.col_offset): ast.unparse(node) for node in simple}


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a name stands for: the members of tuples one by one, under names of their own."""
    if isinstance(value, tuple):
        owner = type(value).__name__ if name.startswith("return") else name
        fields = getattr(value, "_fields", None)
        names = [f"{name}[{i}]" for i in range(len(value))] if fields is None else [f"{owner}.{one}" for one in fields]
        for inner, one in zip(names, value, strict=True):
            yield from _parts(inner, one)
    elif not isinstance(value, TableSeen):
        yield name, value


def _is_block(value: Any) -> bool:
    return isinstance(value, np.ndarray)
