"""PTX text as a module of functions, variables and instructions. Nothing here knows what an instruction does.

Directives that the machine has no use for (`.version`, `.loc`, sections of debug information) leave the text before it
is cut into tokens; `.loc` is remembered, so that faults can name the line of the kernel's own source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple, Union

from ptx_executor.errors import SyntaxFault

_TOKEN = re.compile(
    r"""0[fF][0-9a-fA-F]{8}\b | 0[dD][0-9a-fA-F]{16}\b | 0[xX][0-9a-fA-F]+U?\b | 0[bB][01]+U?\b
      | \d+\.\d+(?:[eE][+-]?\d+)? | \d+U?\b
      | [.%$A-Za-z_][\w$.]*(?:::[\w$.]+)* | "[^"]*" | [{}()\[\],;:@!|+\-<>=*]""",
    re.VERBOSE,
)
_LOC = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)\s+(\d+)")
_FILE = re.compile(r'\s*\.file\s+(\d+)\s+"([^"]*)"')
_IGNORED_LINE = re.compile(r"\s*\.(version|target|address_size)\b")
_LINKAGE = {".visible", ".extern", ".weak", ".common"}
# Of an entry: they bound resources, and change no result. The sizes of a block are checked at the launch.
_ENTRY_DIRECTIVES = {".reqntid", ".maxntid", ".minnctapersm", ".maxnreg", ".noreturn", ".maxnctapersm"}


class Register(NamedTuple):
    name: str


class Symbol(NamedTuple):
    """A label, a variable or a function."""

    name: str


class Immediate(NamedTuple):
    """A number: an integer as it stands, or the bits of a float and how many."""

    value: int
    float_width: int = 0


class Address(NamedTuple):
    base: Register | Symbol | None
    offset: int


class Vector(NamedTuple):
    parts: tuple[Operand, ...]


class Pair(NamedTuple):
    """`d|p`: two results."""

    first: Operand
    second: Operand


class Not(NamedTuple):
    """A negated predicate."""

    register: Register


Operand = Union[Register, Symbol, Immediate, Address, Vector, Pair, Not]


class Place(NamedTuple):
    """Where an instruction stands in the PTX, and what it was compiled from."""

    line: int
    text: str
    source: str

    def __str__(self) -> str:
        origin = f" ({self.source})" if self.source else ""
        return f"PTX line {self.line}: {self.text}{origin}"


class Instruction(NamedTuple):
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | Not | None
    place: Place


class Variable(NamedTuple):
    """Memory with a name: of a module, a function, or a parameter."""

    name: str
    space: str
    size: int
    align: int
    data: bytes = b""
    is_external: bool = False


@dataclass
class Function:
    name: str
    is_entry: bool
    parameters: list[Variable]
    results: list[Variable]
    block_size: tuple[int, ...] | None = None
    registers: dict[str, str] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    body: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


@dataclass
class Module:
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)


class _Token(NamedTuple):
    text: str
    line: int


WIDTHS = {"pred": 1, **{f"{kind}{width}": width for kind in "bus" for width in (8, 16, 32, 64)}}
WIDTHS |= {"b128": 128, "f16": 16, "f16x2": 32, "bf16": 16, "f32": 32, "f64": 64}


def parse(text: str) -> Module:
    """Return the module that a text describes."""
    return _Parser(text).module()


class _Parser:
    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._files: dict[int, str] = {}
        self._source_of_line: dict[int, str] = {}
        self._tokens = self._cut(text)
        self._at = 0
        self._scopes: list[dict[str, str]] = []
        self._labels: list[dict[str, str]] = []
        self._registers: dict[str, str] = {}
        self._num_scopes = 0

    def _cut(self, text: str) -> list[_Token]:
        tokens: list[_Token] = []
        located: tuple[int, int] | None = None
        locations: dict[int, tuple[int, int]] = {}
        in_section, in_comment = False, False
        for number, line in enumerate(self._lines, 1):
            if match := _FILE.match(line):
                self._files[int(match[1])] = match[2].rsplit("/", 1)[-1]
                continue
            line = line.split("//")[0]
            if in_comment or "/*" in line:
                whole = ("/*" + line) if in_comment else line
                whole = re.sub(r"/\*.*?\*/", " ", whole)
                in_comment = "/*" in whole
                line = whole.split("/*")[0]
            if match := _LOC.match(line):
                located = int(match[1]), int(match[2])
                continue
            if line.lstrip().startswith(".section"):
                in_section = True
                continue
            if in_section:
                in_section = "}" not in line
                continue
            if _IGNORED_LINE.match(line):
                continue
            position = 0
            for match in _TOKEN.finditer(line):
                if line[position : match.start()].strip():
                    raise SyntaxFault(f"PTX line {number}: {line.strip()}")
                position = match.end()
                tokens.append(_Token(match[0], number))
            if line[position:].strip():
                raise SyntaxFault(f"PTX line {number}: {line.strip()}")
            if located is not None:
                locations[number] = located
        for number, (file, row) in locations.items():
            self._source_of_line[number] = f"{self._files.get(file, file)}:{row}"
        return tokens

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise SyntaxFault("the text ends within a statement")
        self._at += 1
        return self._tokens[self._at - 1].text

    def _expect(self, text: str) -> None:
        found = self._next()
        if found != text:
            raise self._fault(f"expected {text!r}, found {found!r}")

    def _accept(self, text: str) -> bool:
        if self._peek() != text:
            return False
        self._at += 1
        return True

    def _fault(self, message: str) -> SyntaxFault:
        line = self._tokens[max(0, self._at - 1)].line
        return SyntaxFault(f"PTX line {line}: {message}: {self._lines[line - 1].strip()}")

    def module(self) -> Module:
        module = Module()
        while self._at < len(self._tokens):
            is_external = False
            while self._peek() in _LINKAGE:
                is_external |= self._next() == ".extern"
            head = self._next()
            if head in (".entry", ".func"):
                function = self._function(head == ".entry")
                if function is not None:
                    module.functions[function.name] = function
            elif head in (".global", ".const", ".shared"):
                variable = self._variable(head[1:], is_external)
                self._expect(";")
                module.variables[variable.name] = variable
            elif head == ".pragma":
                self._skip_statement()
            else:
                raise self._fault(f"unknown directive {head!r}")
        return module

    def _skip_statement(self) -> None:
        while self._next() != ";":
            pass

    def _integer(self) -> int:
        sign = -1 if self._accept("-") else 1
        text = self._next().removesuffix("U")
        try:
            return sign * int(text, 0)
        except ValueError as error:
            raise self._fault(f"expected an integer, found {text!r}") from error

    def _variable(self, space: str, is_external: bool = False) -> Variable:
        """Read what follows the space: alignment, type, name, sizes, contents."""
        align, kind = 0, ""
        while self._peek().startswith("."):
            word = self._next()[1:]
            if word == "align":
                align = self._integer()
            elif word in WIDTHS:
                kind = word
            elif word in ("ptr", "global", "const", "shared", "local", "generic"):
                # Of a parameter: what it points to. The alignment that follows is that of the pointee.
                if word == "ptr":
                    while self._peek() in (".global", ".const", ".shared", ".local", ".generic", ".align"):
                        if self._next() == ".align":
                            self._integer()
            else:
                raise self._fault(f"unknown attribute .{word}")
        if not kind:
            raise self._fault("a variable without a type")
        name, each = self._next(), WIDTHS[kind] // 8
        count, is_open = 1, False
        while self._accept("["):
            if self._accept("]"):
                is_open = True
                continue
            count *= self._integer()
            self._expect("]")
        data = b""
        if self._accept("="):
            values = self._initial_values()
            data = b"".join((value & ((1 << 8 * each) - 1)).to_bytes(each, "little") for value in values)
            count = max(count, len(values))
        size = 0 if is_open and not data else count * each
        return Variable(name, space, size, align or each, data.ljust(size, b"\0") if data else b"", is_external)

    def _initial_values(self) -> list[int]:
        if not self._accept("{"):
            return [self._number()]
        values: list[int] = []
        while not self._accept("}"):
            if self._peek() == "{":
                values += self._initial_values()
            else:
                values.append(self._number())
            self._accept(",")
        return values

    def _number(self) -> int:
        text = self._peek()
        if text[:2] in ("0f", "0F", "0d", "0D"):
            return int(self._next()[2:], 16)
        if text not in ("-",) and not text[:1].isdigit():
            raise self._fault(f"a variable that begins as {text!r} is not supported")
        return self._integer()

    def _parameters(self) -> list[Variable]:
        found = []
        self._expect("(")
        while not self._accept(")"):
            word = self._next()
            if word not in (".param", ".reg"):
                raise self._fault(f"expected a parameter, found {word!r}")
            found.append(self._variable(word[1:]))
            self._accept(",")
        return found

    def _function(self, is_entry: bool) -> Function | None:
        results = self._parameters() if not is_entry and self._peek() == "(" else []
        name = self._next()
        parameters = self._parameters() if self._peek() == "(" else []
        function = Function(name, is_entry, parameters, results)
        while self._peek() != "{":
            if self._accept(";"):
                return None
            directive = self._next()
            if directive not in _ENTRY_DIRECTIVES:
                raise self._fault(f"unknown directive {directive!r} of a function")
            sizes = []
            while self._peek()[:1].isdigit():
                sizes.append(self._integer())
                self._accept(",")
            if directive == ".reqntid":
                function.block_size = tuple(sizes)
        self._scopes, self._labels, self._registers = [], [], function.registers
        for variable in (*parameters, *results):
            if variable.space == "reg":
                raise self._fault("parameters in registers are not supported")
        self._body(function)
        return function

    def _body(self, function: Function) -> None:
        self._expect("{")
        suffix = f"@{self._num_scopes}" if self._scopes else ""
        self._num_scopes += 1
        self._scopes.append({})
        self._labels.append(self._labels_ahead(suffix))
        while not self._accept("}"):
            word = self._peek()
            if word == "{":
                self._body(function)
            elif word == ".reg":
                self._declare_registers(function, suffix)
            elif word in (".local", ".shared", ".param"):
                self._next()
                variable = self._variable(word[1:])
                self._expect(";")
                self._scopes[-1][variable.name] = variable.name + suffix
                function.variables.append(variable._replace(name=variable.name + suffix))
            elif word == ".pragma":
                self._skip_statement()
            elif self._peek(1) == ":":
                self._at += 2
                function.labels[self._labels[-1][word]] = len(function.body)
            elif word.startswith("."):
                raise self._fault(f"unknown directive {word!r}")
            elif word == ";":
                self._next()
            else:
                function.body.append(self._instruction())
        self._scopes.pop()
        self._labels.pop()

    def _labels_ahead(self, suffix: str) -> dict[str, str]:
        """Return the labels of the scope that begins here, which may be used before they stand."""
        found, depth, at = {}, 0, self._at
        while depth >= 0 and at < len(self._tokens):
            text = self._tokens[at].text
            depth += (text == "{") - (text == "}")
            if depth == 0 and text == ":" and self._tokens[at - 2].text in (";", "{", "}", ":"):
                label = self._tokens[at - 1].text
                found[label] = label + suffix
            at += 1
        return found

    def _declare_registers(self, function: Function, suffix: str) -> None:
        self._next()
        kind = self._next()[1:]
        if kind not in WIDTHS:
            raise self._fault(f"unknown type .{kind}")
        while True:
            name = self._next()
            names = [name]
            if self._accept("<"):
                names = [f"{name}{i}" for i in range(self._integer())]
                self._expect(">")
            for one in names:
                self._scopes[-1][one] = one + suffix
                function.registers[one + suffix] = kind
            if self._accept(";"):
                return
            self._expect(",")

    def _instruction(self) -> Instruction:
        start = self._at
        line = self._tokens[start].line
        guard: Register | Not | None = None
        if self._accept("@"):
            negated = self._accept("!")
            register = Register(self._resolved(self._next()))
            guard = Not(register) if negated else register
        opcode, *modifiers = self._next().split(".")
        operands: list[Operand] = []
        while not self._accept(";"):
            operands.append(self._operand())
            if self._peek() != ";":
                self._expect(",")
        text = " ".join(token.text for token in self._tokens[start : self._at])
        text = re.sub(r" (?=[,;\]\)])|(?<=[\[\(@!]) ", "", text)
        place = Place(line, text, self._source_of_line.get(line, ""))
        return Instruction(opcode, tuple(modifiers), tuple(operands), guard, place)

    def _resolved(self, name: str) -> str:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return name

    def _operand(self) -> Operand:
        text = self._peek()
        if text in ("{", "("):
            self._next()
            parts: list[Operand] = []
            while not self._accept("}" if text == "{" else ")"):
                parts.append(self._operand())
                self._accept(",")
            return Vector(tuple(parts))
        if text == "[":
            self._next()
            address = self._address()
            self._expect("]")
            return address
        if text == "!":
            self._next()
            return Not(Register(self._resolved(self._next())))
        if text == "-" or text[:1].isdigit():
            return self._immediate()
        first = self._named(self._next())
        if self._accept("|"):
            return Pair(first, self._named(self._next()))
        return first

    def _named(self, name: str) -> Register | Symbol:
        for labels in reversed(self._labels):
            if name in labels:
                return Symbol(labels[name])
        resolved = self._resolved(name)
        # Special registers are never declared. `_` is a sink.
        is_register = name.startswith("%") or name == "_" or resolved in self._registers
        return Register(resolved) if is_register else Symbol(resolved)

    def _immediate(self) -> Immediate:
        text = self._peek()
        if text[:2] in ("0f", "0F"):
            return Immediate(int(self._next()[2:], 16), 32)
        if text[:2] in ("0d", "0D"):
            return Immediate(int(self._next()[2:], 16), 64)
        return Immediate(self._integer())

    def _address(self) -> Address:
        text = self._peek()
        base: Register | Symbol | None = None
        if text != "-" and not text[:1].isdigit():
            base = self._named(self._next())
        offset = 0
        if base is None:
            offset = self._integer()
        while self._peek() in ("+", "-"):
            sign = 1 if self._next() == "+" else -1
            offset += sign * self._integer()
        return Address(base, offset)
