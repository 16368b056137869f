"""Functions that are called, put in place of their calls: the machine knows kernels alone.

Each call has registers, variables and labels of its own, under names that no PTX has. A register or a variable that the
function does not set holds what the same call left there before.
"""

from __future__ import annotations

from ptx_executor.errors import Unsupported
from ptx_executor.syntax import (
    Address,
    Function,
    Instruction,
    Module,
    Not,
    Operand,
    Pair,
    Register,
    Symbol,
    Variable,
    Vector,
)


def inlined(module: Module, function: Function) -> Function:
    """Return a kernel without calls."""
    return _Inliner(module, function).result


class _Inliner:
    def __init__(self, module: Module, function: Function) -> None:
        self._module, self._calls = module, 0
        self.result = Function(
            function.name, function.is_entry, function.parameters, function.results, function.block_size
        )
        self._append(function, {}, (function.name,))

    def _append(self, function: Function, names: dict[str, str], callers: tuple[str, ...]) -> None:
        """Append a function, with its names changed; where it returns, go on behind it."""
        result = self.result
        result.registers |= {names.get(name, name): kind for name, kind in function.registers.items()}
        result.variables += [one._replace(name=names.get(one.name, one.name)) for one in function.variables]
        end = f"end#{self._calls}"
        starts = {}
        for i, one in enumerate(function.body):
            starts[i] = len(result.body)
            one = one._replace(
                operands=tuple(_renamed(operand, names) for operand in one.operands),
                guard=None if one.guard is None else _renamed(one.guard, names),
            )
            if one.opcode == "call":
                self._call(one, callers)
            elif one.opcode == "ret" and len(callers) > 1:
                result.body.append(one._replace(opcode="bra", operands=(Symbol(end),)))
            else:
                result.body.append(one)
        starts[len(function.body)] = len(result.body)
        result.labels |= {names.get(label, label): starts[i] for label, i in function.labels.items()}
        if len(callers) > 1:
            result.labels[end] = len(result.body)

    def _call(self, one: Instruction, callers: tuple[str, ...]) -> None:
        operands, results = list(one.operands), ()
        if operands and isinstance(operands[0], Vector):
            results = operands.pop(0).parts
        name, *rest = operands
        callee = self._module.functions.get(name.name) if isinstance(name, Symbol) else None
        if callee is None or callee.is_entry or len(rest) > 1 or set(one.modifiers) - {"uni"}:
            raise Unsupported(f"a call of what is no function of the module: {one.place}")
        if callee.name in callers:
            raise Unsupported(f"a call of a function by itself: {one.place}")
        given = rest[0].parts if rest else ()
        self._calls += 1
        number = self._calls
        names = {
            own: f"{own}#{number}"
            for own in (*callee.registers, *callee.labels, *(variable.name for variable in callee.variables))
        }
        names |= self._bound([*callee.results, *callee.parameters], [*results, *given], one)
        if one.guard is not None:
            opposite = one.guard.register if isinstance(one.guard, Not) else Not(one.guard)
            around = Instruction("bra", (), (Symbol(f"around#{number}"),), opposite, one.place)
            self.result.body.append(around)
        self._append(callee, names, (*callers, callee.name))
        self.result.labels[f"around#{number}"] = len(self.result.body)

    def _bound(self, expected: list[Variable], given: list[Operand], one: Instruction) -> dict[str, str]:
        """Return which variables of the caller stand for results and parameters."""
        sizes = {variable.name: variable.size for variable in self.result.variables if variable.space == "param"}
        found = [operand.name if isinstance(operand, Symbol) else "" for operand in given]
        if [sizes.get(name) for name in found] != [variable.size for variable in expected]:
            raise Unsupported(f"a call whose arguments are not as declared: {one.place}")
        return {variable.name: name for variable, name in zip(expected, found, strict=True)}


def _renamed(operand: Operand, names: dict[str, str]) -> Operand:
    if isinstance(operand, (Register, Symbol)):
        return operand._replace(name=names.get(operand.name, operand.name))
    if isinstance(operand, Address):
        return operand if operand.base is None else operand._replace(base=_renamed(operand.base, names))
    if isinstance(operand, Vector):
        return Vector(tuple(_renamed(part, names) for part in operand.parts))
    if isinstance(operand, Pair):
        return Pair(_renamed(operand.first, names), _renamed(operand.second, names))
    if isinstance(operand, Not):
        return Not(_renamed(operand.register, names))
    return operand
