"""Lowering: environment functions written for Triton become plain Python functions over a module of operations.

The function's syntax tree is rewritten (operators and `tl.` functions into calls of the module, names into what they
stand for) and compiled again under its own file name and line numbers, so that tracebacks point at the author's
source. What Triton itself would refuse, or what the rewriting does not know, is an error here.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn

import numpy as np
from torch import Tensor

from operant_gpu.errors import UnsupportedConstruct
from operant_gpu.lang import constexpr_value, enclosed, is_jit_function, numpy_dtype, sourceless, tl

# An operator's name in the tree and the function of the module of operations that it becomes.
_OPERATORS = {
    "Add": "add", "Sub": "sub", "Mult": "mul", "Div": "truediv", "FloorDiv": "floordiv", "Mod": "mod",
    "LShift": "lshift", "RShift": "rshift", "BitAnd": "and_", "BitOr": "or_", "BitXor": "xor",
    "Lt": "lt", "LtE": "le", "Gt": "gt", "GtE": "ge", "Eq": "eq", "NotEq": "ne",
    "USub": "neg", "UAdd": "pos", "Invert": "invert",
}  # fmt: skip
_BUILTINS = {"range": "runtime_range", "min": "minimum", "max": "maximum", "len": "length"}
_UNKNOWN_TO_TRITON = (ast.Dict, ast.Set, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.Lambda, ast.Try)
# What may be added to a function, by its tree and the names that it knows.
Also = Callable[[FunctionType, ast.FunctionDef, dict[str, Any]], ast.FunctionDef]
_PLAIN = (ast.Constant, ast.Tuple, ast.Load, ast.Store, ast.Pass, ast.keyword, ast.Starred)


def lower(
    function: Any,
    ops: ModuleType,
    intrinsics: dict[Any, Callable[..., Any]],
    done: dict[FunctionType, Callable[..., Any]] | None = None,
    also: Also | None = None,
) -> Callable[..., Any]:
    """Return a Python function that does what the jit function `function` does, over `ops`.

    Args:
        function: A function decorated with `jit`.
        ops: Module of operations: `add`, `where`, `sin`, ...
        intrinsics: Jit functions that are replaced rather than lowered.
        done: Collects the functions that are lowered, each once; of one environment, whose globals may change later.
        also: Adds to the body of each function that is lowered, given the function, its tree and the names it knows.

    Raises:
        UnsupportedConstruct: Naming file and line, if the function uses what the lowering does not know.
    """
    replaced = {jit.fn: python for jit, python in intrinsics.items()}
    return _lower(function.fn, _Target(ops, replaced, {} if done is None else done, also), ())


class _Target(NamedTuple):
    """What functions are lowered to; `done` keeps those that are."""

    ops: ModuleType
    # By the functions inside the jit functions: a jit function's own hash has Triton analyse its source.
    intrinsics: dict[FunctionType, Callable[..., Any]]
    done: dict[FunctionType, Callable[..., Any]]
    also: Also | None


def _lower(original: FunctionType, target: _Target, callers: tuple[FunctionType, ...]) -> Callable[..., Any]:
    if original in target.intrinsics:
        return target.intrinsics[original]
    if original not in target.done:
        target.done[original] = _rewritten(original, target, (*callers, original))
    return target.done[original]


def _rewritten(original: FunctionType, target: _Target, callers: tuple[FunctionType, ...]) -> Callable[..., Any]:
    source, first_line = source_of(original)
    tree = ast.parse(source)
    ast.increment_lineno(tree, first_line - 1)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    namespace: dict[str, Any] = {}
    lowered = _Rewriter(original, target, callers, namespace).definition(definition)
    tree.body = [lowered if target.also is None else target.also(original, lowered, namespace)]
    code = compile(ast.fix_missing_locations(tree), original.__code__.co_filename, "exec")
    exec(code, namespace)  # noqa: S102
    result: FunctionType = namespace[definition.name]
    result.__defaults__ = _constants(original.__defaults__)
    return result


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _constants(defaults: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    return defaults and tuple(constexpr_value(default) for default in defaults)


def source_of(function: FunctionType) -> tuple[str, int]:
    """Return a function's source, not indented, and the line where it begins.

    Raises:
        UnsupportedConstruct: If it stands in no file.
    """
    try:
        lines, first_line = inspect.getsourcelines(function)
    except OSError:
        raise sourceless(function) from None
    return textwrap.dedent("".join(lines)), first_line


class _Rewriter(ast.NodeTransformer):
    """Rewrites one function; `namespace` collects what its names stand for."""

    def __init__(
        self,
        function: FunctionType,
        target: _Target,
        callers: tuple[FunctionType, ...],
        namespace: dict[str, Any],
    ) -> None:
        self._function, self._target, self._callers, self._namespace = function, target, callers, namespace
        self._ops, self._enclosed = target.ops, enclosed(function)
        self._locals: set[str] = set()

    def definition(self, node: ast.FunctionDef) -> ast.FunctionDef:
        arguments = node.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            self._refuse(node, "only plain arguments are supported")
        self._locals = set(self._function.__code__.co_varnames)
        for argument in arguments.args:
            argument.annotation = None
        node.decorator_list, node.returns, arguments.defaults = [], None, []
        # Defaults are set on the compiled function from the original's values.
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, _PLAIN):
            message = f"{type(node).__name__} is not supported in environment functions"
            self._refuse(node, message, isinstance(node, _UNKNOWN_TO_TRITON))
        return super().generic_visit(node)

    # Statements

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if len(node.targets) != 1:
            self._refuse(node, "assign to one target at a time")
        self._check_target(node.targets[0])
        conversion = "values" if isinstance(node.targets[0], ast.Tuple) else "value"
        node.value = self._op(conversion, self.visit(node.value))
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self._check_target(node.target)
        if node.value is None:
            self._refuse(node, "a declaration without a value")
        assigned = self.visit(node.value)
        constant = ast.unparse(node.annotation).endswith("constexpr")
        value = assigned if constant else self._op("value", assigned)
        return ast.copy_location(ast.Assign([node.target], value), node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        # Never in place: the name may stand for a column of memory.
        self._check_target(node.target)
        assert isinstance(node.target, ast.Name)
        left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
        result = self._op(self._operator(node, node.op), left, self.visit(node.value))
        return ast.copy_location(ast.Assign([node.target], self._op("value", result)), node)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        node.value = node.value and self.visit(node.value)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        node.value = self.visit(node.value)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        node.test = self._op("static", self.visit(node.test))
        node.body = [self.visit(statement) for statement in node.body]
        node.orelse = [self.visit(statement) for statement in node.orelse]
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        if node.orelse:
            self._refuse(node, "for-else is not supported")
        self._check_target(node.target)
        node.iter = self.visit(node.iter)
        node.body = [self.visit(statement) for statement in node.body]
        return node

    # Expressions

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        return self._op(self._operator(node, node.op), self.visit(node.left), self.visit(node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return ast.copy_location(ast.UnaryOp(node.op, self._op("static", operand)), node)
        return self._op(self._operator(node, node.op), operand)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if len(node.ops) != 1:
            self._refuse(node, "a chained comparison: write (a < b) & (b < c)")
        return self._op(self._operator(node, node.ops[0]), self.visit(node.left), self.visit(node.comparators[0]))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        node.values = [self._op("static", self.visit(operand)) for operand in node.values]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        node.test = self._op("static", self.visit(node.test))
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        if any(isinstance(part, ast.Starred) for part in node.elts):
            self._refuse(node, "Triton does not unpack into a tuple: write values + (value,)")
        return super().generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.slice, ast.Tuple):
            if ast.unparse(node.slice) not in (":, None", "(:, None)"):
                # Triton knows new axes in other places too.
                is_everywhere = not all(isinstance(part, ast.Slice) or _is_none(part) for part in node.slice.elts)
                message = (
                    "x[:, None] is the only index with axes; cells(size) numbers the cells of an Array, and a table is "
                    "read with lookup(tables.name, i, j)"
                )
                self._refuse(node, message, is_everywhere)
            return self._op("column", self.visit(node.value))
        return self._op("item", self.visit(node.value), self.visit(node.slice))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self._locals:
            return node
        return self._constant(node, self._resolve(node))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if self._is_static_path(node):
            return self._constant(node, self._resolve(node))
        # A column of State, a field of params or of rng.
        return self._op("field", self.visit(node.value), ast.Constant(node.attr))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        arguments = [self.visit(argument) for argument in node.args]
        keywords = [ast.keyword(keyword.arg, self.visit(keyword.value)) for keyword in node.keywords]
        if isinstance(node.func, ast.Attribute) and not self._is_static_path(node.func):
            if node.func.attr != "to":
                self._refuse(node, f"the method .{node.func.attr}() is not supported: .to(dtype) is the only one")
            arguments.insert(0, self.visit(node.func.value))
            return self._op("cast", *arguments, keywords=keywords)
        return ast.copy_location(ast.Call(self.visit(node.func), arguments, keywords), node)

    # Names

    def _is_static_path(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id not in self._locals

    def _resolve(self, node: ast.expr) -> Any:  # noqa: RET503
        """Return what a name outside the function stands for: a constant, a dtype, a class or a function."""
        name = ast.unparse(node)
        if name in _BUILTINS and name not in self._function.__globals__ and name not in self._enclosed:
            return getattr(self._ops, _BUILTINS[name])
        found = self._lookup(node)
        if isinstance(found, tl.constexpr):
            constant = constexpr_value(found)
            if isinstance(constant, np.generic):
                self._refuse(
                    node, f"{name} is a constant of {constant.dtype}: write tl.constexpr({constant.item()})", True
                )
            return constant
        if numpy_dtype(found) is not None:
            return numpy_dtype(found)
        if isinstance(node, ast.Attribute) and self._lookup(node.value) in (tl, getattr(tl, "math", None)):
            if node.attr in self._ops.TL_FUNCTIONS:
                return getattr(self._ops, node.attr)
            self._refuse(node, f"{name} is not available on every backend")
        if is_jit_function(found):
            if found.fn in self._callers:
                self._refuse(node, "a function cannot call itself")
            return _lower(found.fn, self._target, self._callers)
        if isinstance(found, type) and issubclass(found, tuple):
            return found
        if isinstance(found, bool | int | float):
            constant = self._constexpr(name, found)
            self._refuse(node, f"{name} is a plain number outside the function: write {constant}", True)
        if isinstance(found, np.ndarray | Tensor | list | tuple):
            advice = "declare a Table (operant_gpu.lang) and read it with lookup(tables.name, index)"
            self._refuse(
                node,
                f"{name} is data outside the function: {advice}, or write tl.constexpr((1, 2)) for constants",
                True,
            )
        twin = name.split(".")[-1]
        advice = f"use tl.{twin}" if twin in self._ops.TL_FUNCTIONS else "decorate functions with @jit"
        self._refuse(
            node, f"{name} is neither a jit function, a tl.constexpr, a NamedTuple class nor part of tl: {advice}"
        )

    def _lookup(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Attribute):
            owner = self._lookup(node.value)
            if not hasattr(owner, node.attr):
                self._refuse(node, f"{ast.unparse(node)} does not exist")
            return getattr(owner, node.attr)
        assert isinstance(node, ast.Name)
        if node.id in self._enclosed:
            return self._enclosed[node.id]
        if node.id not in self._function.__globals__:
            hint = f": use tl.{node.id}" if node.id in self._ops.TL_FUNCTIONS else ""
            known = "is not available here" if hasattr(builtins, node.id) else "is not defined"
            self._refuse(node, f"the name {node.id!r} {known}{hint}")
        return self._function.__globals__[node.id]

    def _constexpr(self, name: str, found: Any) -> str:
        """Return what makes a number outside the function a constant that compilers know."""
        constant = name.split(".")[-1].upper()
        if name in self._enclosed:
            return (
                f"{constant} = tl.constexpr({name}) beside it, and {constant} in the function; or make it a parameter"
            )
        return f"{constant} = tl.constexpr({name if '.' in name else repr(found)}) at the top of the module"

    # Building and refusing

    def _constant(self, node: ast.expr, found: Any) -> ast.AST:
        # A space: no name of the author's can be the same.
        name = f"outer {len(self._namespace)}"
        self._namespace[name] = found
        return ast.copy_location(ast.Name(name, ast.Load()), node)

    def _op(self, name: str, *arguments: Any, keywords: Any = ()) -> ast.expr:
        slot = f"op {name}"
        self._namespace[slot] = getattr(self._ops, name)
        call = ast.Call(ast.Name(slot, ast.Load()), list(arguments), list(keywords))
        return ast.copy_location(call, arguments[0])

    def _operator(self, node: ast.AST, operator: ast.AST) -> str:
        name = type(operator).__name__
        if name not in _OPERATORS:
            hint = ": write x * x" if name == "Pow" else ""
            self._refuse(node, f"the operator {name} is not supported{hint}")
        return _OPERATORS[name]

    def _check_target(self, target: ast.expr) -> None:
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        if not all(isinstance(part, ast.Name) for part in parts):
            self._refuse(target, "assign to names alone: blocks and State cannot be changed in place")

    def _refuse(self, node: ast.AST, message: str, is_everywhere: bool = False) -> NoReturn:
        line = getattr(node, "lineno", self._function.__code__.co_firstlineno)
        place = f"{self._function.__code__.co_filename}:{line}, in {self._function.__name__}"
        text = f": `{ast.unparse(node).splitlines()[0]}`" if isinstance(node, ast.expr | ast.stmt) else ""
        raise UnsupportedConstruct(f"{place}{text}: {message}", is_everywhere)
