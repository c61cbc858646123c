"""On-demand functions of Feast, rewritten to work on NumPy columns where that is certain to mean the same.

Laws: a function is rewritten whole or not at all; only arithmetic, comparisons and the calls listed here are taken to
mean the same on columns; names are resolved to what they meant in the author's module.
"""

from __future__ import annotations

import ast
import io
import textwrap
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Rewritten", "Untranslatable", "rewritten"]

_MATH = frozenset(
    ("ceil", "cos", "exp", "expm1", "floor", "log", "log10", "log1p", "log2", "sin", "sqrt", "tan", "tanh")
)
_NUMPY = _MATH | {"abs", "arctan2", "clip", "isfinite", "isinf", "isnan", "logical_and", "logical_not", "logical_or"}
_NUMPY |= {"maximum", "minimum", "power", "radians", "sign", "where"}
_METHODS = {"abs": "abs", "clip": "clip", "isna": "isnan", "isnull": "isnan", "round": "round"}
_BITWISE: dict[type[ast.boolop], type[ast.operator]] = {ast.And: ast.BitAnd, ast.Or: ast.BitOr}
_CASTS = ("float", "int", "bool", "float64", "float32", "int64", "int32")


class Untranslatable(Exception):  # noqa: N818 - it is no error of anybody, but an answer
    """Why a function stays as it is."""


@dataclass(frozen=True)
class Rewritten:
    """A function's parameter and the lines of its body."""

    parameter: str
    body: tuple[str, ...]

    @property
    def needs_numpy(self) -> bool:
        """Whether the body calls NumPy."""
        return any("np." in line for line in self.body)


def rewritten(
    text: str, *, mode: str, singleton: bool, names: Mapping[str, str], columns: Mapping[str, str]
) -> Rewritten:
    """The function in `text`; `columns` maps the inputs' names in Feast to those in Trilane.

    `names`: what the function takes from its module, as the reader tells it. Raises Untranslatable.
    """
    if mode not in ("pandas", "python"):
        raise Untranslatable(f"its mode is {mode!r}")
    try:
        tree = ast.parse(textwrap.dedent(text))
    except SyntaxError:
        raise Untranslatable("its source cannot be read") from None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if len(functions) != 1 or len(functions[0].args.args) != 1:
        raise Untranslatable("it is no function of one argument")
    kind = "singleton" if singleton else mode
    writer = _Writer(functions[0].args.args[0].arg, kind, names, columns)
    body = [line for node in functions[0].body for line in writer.statement(node)]
    if not writer.returned:
        raise Untranslatable("it returns nothing at its end")
    return Rewritten(writer.parameter, tuple(_double_quoted("\n".join(body)).splitlines()))


class _Writer:
    """Rewrites one function. `kind`: pandas works on columns, python on lists, singleton on the values of one row."""

    def __init__(self, parameter: str, kind: str, names: Mapping[str, str], columns: Mapping[str, str]) -> None:
        self.parameter = parameter
        self.returned = False
        self._kind = kind
        self._columns = columns
        self._names = dict(names)
        self._frames: set[str] = set()
        self._locals: dict[str, ast.expr] = {}

    def statement(self, node: ast.stmt) -> list[str]:
        if self.returned:
            raise Untranslatable(f"there is more after its return ({_shown(node)})")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return []  # the docstring is written as the description
        if isinstance(node, ast.Import):
            self._names.update({one.asname or one.name: f"module {one.name}" for one in node.names})
            return []
        if isinstance(node, ast.Return) and node.value is not None:
            self.returned = True
            return [f"return {ast.unparse(self._frame(node.value) or self._refuse(node.value))}"]
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            return self._assignment(node.target, node.value)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            return self._assignment(node.targets[0], node.value)
        raise Untranslatable(f"it has more than assignments and one return ({_shown(node)})")

    def _assignment(self, target: ast.expr, value: ast.expr) -> list[str]:
        if isinstance(target, ast.Name):
            frame = self._frame(value)
            if frame is not None:
                self._frames.add(target.id)
                return [f"{target.id} = {ast.unparse(frame)}"]
            written = self._top(value)
            self._locals[target.id] = ast.Name(target.id)
            return [f"{target.id} = {ast.unparse(written)}"]
        if (
            isinstance(target, ast.Subscript)
            and self._is_frame(target.value)
            and isinstance(target.slice, ast.Constant)
        ):
            return [f"{ast.unparse(target)} = {ast.unparse(self._top(value))}"]
        raise Untranslatable(f"it assigns to {ast.unparse(target)}")

    def _is_frame(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in self._frames

    def _frame(self, node: ast.expr) -> ast.expr | None:
        """`node` as a mapping of columns, if it is a frame or a dict."""
        if self._is_frame(node):
            return node
        if isinstance(node, ast.Call) and self._called(node) == "pandas.DataFrame" and not node.keywords:
            return self._frame(node.args[0]) if node.args else ast.Dict([], [])
        if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
            return ast.Dict(node.keys, [self._top(value) for value in node.values])
        return None

    def _top(self, node: ast.expr) -> ast.expr:
        """A whole column."""
        if self._kind == "python":
            if isinstance(node, ast.ListComp) and len(node.generators) == 1:
                return self._comprehension(node.elt, node.generators[0])
            if isinstance(node, ast.Name) and node.id in self._locals:
                return node
            raise Untranslatable(f"it makes a list other than by a comprehension ({_shown(node)})")
        return self._expression(node)

    def _comprehension(self, element: ast.expr, loop: ast.comprehension) -> ast.expr:
        zipped = isinstance(loop.iter, ast.Call) and isinstance(loop.iter.func, ast.Name) and loop.iter.func.id == "zip"
        lists = loop.iter.args if zipped and isinstance(loop.iter, ast.Call) else [loop.iter]
        targets = loop.target.elts if zipped and isinstance(loop.target, ast.Tuple) else [loop.target]
        if loop.ifs or len(lists) != len(targets):
            raise Untranslatable("a comprehension leaves rows out")
        before = dict(self._locals)
        for target, one in zip(targets, lists, strict=True):
            if not isinstance(target, ast.Name):
                raise Untranslatable(f"it unpacks {ast.unparse(target)}")
            before_name = self._locals.get(one.id) if isinstance(one, ast.Name) else None
            self._locals[target.id] = before_name or self._column(one)
        self._kind = "singleton"
        written = self._expression(element)
        self._kind, self._locals = "python", before
        return written

    def _column(self, node: ast.expr) -> ast.expr:
        if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)):
            raise Untranslatable(f"{ast.unparse(node)} is no column")
        if self._is_frame(node.value):
            return node
        if not (isinstance(node.value, ast.Name) and node.value.id == self.parameter):
            raise Untranslatable(f"{ast.unparse(node)} is no column")
        name = str(node.slice.value)
        if name not in self._columns:
            raise Untranslatable(f"the input {name!r} has no counterpart")
        return ast.Subscript(node.value, ast.Constant(self._columns[name]))

    def _expression(self, node: ast.expr) -> ast.expr:
        go = self._expression
        match node:
            case ast.Constant(value=bool() | int() | float() | str()):
                return node
            case ast.Name(id=name) if name in self._locals:
                return self._locals[name]
            case ast.Name(id=name) if self._names.get(name, "").startswith("value "):
                return ast.parse(self._names[name].removeprefix("value "), mode="eval").body
            case ast.Subscript():
                return self._column(node)
            case ast.BinOp(left=left, op=op, right=right):
                return ast.BinOp(go(left), op, go(right))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Invert() as op, operand=operand):
                return ast.UnaryOp(op, go(operand))
            case ast.Compare(
                left=left, ops=[ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE() | ast.Eq() | ast.NotEq() as op]
            ):
                return ast.Compare(go(left), [op], [go(node.comparators[0])])
            case ast.BoolOp(op=op, values=values) if self._kind == "singleton" and all(map(_is_truth, values)):
                first, *rest = map(go, values)
                for one in rest:
                    first = ast.BinOp(first, _BITWISE[type(op)](), one)
                return first
            case ast.IfExp(test=test, body=body, orelse=orelse) if self._kind == "singleton" and _is_truth(test):
                return _numpy("where", go(test), go(body), go(orelse))
            case ast.Attribute(attr="values", value=value) if self._kind == "pandas":
                return go(value)
            case ast.Call():
                return self._call(node)
        return self._refuse(node)

    def _call(self, node: ast.Call) -> ast.expr:
        called, arguments = self._called(node), [*node.args]
        library, _, name = called.rpartition(".")
        if library == "numpy" and name in _NUMPY and not node.keywords:
            return _numpy(name, *map(self._expression, arguments))
        single = self._kind == "singleton"
        if library == "math" and single and name in _MATH and not node.keywords:
            return _numpy(name, *map(self._expression, arguments))
        if called == "abs" and len(arguments) == 1:
            return _numpy("abs", self._expression(arguments[0]))
        if called in ("min", "max") and single and len(arguments) == 2 and not node.keywords:
            return _numpy({"min": "minimum", "max": "maximum"}[called], *map(self._expression, arguments))
        if isinstance(node.func, ast.Attribute) and self._kind == "pandas" and not called:
            return self._method(node.func, node)
        return self._refuse(node)

    def _method(self, method: ast.Attribute, node: ast.Call) -> ast.expr:
        column = self._expression(method.value)
        if method.attr == "astype" and len(node.args) == 1 and ast.unparse(node.args[0]).strip("'\"") in _CASTS:
            return ast.Call(ast.Attribute(column, "astype"), node.args, [])
        if method.attr == "to_numpy" and not node.args and not node.keywords:
            return column
        if method.attr == "fillna" and len(node.args) == 1 and not node.keywords:
            return _numpy("where", _numpy("isnan", column), self._expression(node.args[0]), column)
        arguments = [*node.args, *(one.value for one in node.keywords)]
        named = [one.arg for one in node.keywords]
        if method.attr in _METHODS and (not named or (named == ["lower", "upper"] and not node.args)):
            return _numpy(_METHODS[method.attr], column, *map(self._expression, arguments))
        return self._refuse(node)

    def _called(self, node: ast.Call) -> str:
        """The full name of what is called, if the name is known."""
        if isinstance(node.func, ast.Name):
            return node.func.id
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            module = self._names.get(node.func.value.id, "")
            return f"{module.removeprefix('module ')}.{node.func.attr}" if module.startswith("module ") else ""
        return ""

    def _refuse(self, node: ast.expr) -> ast.expr:
        raise Untranslatable(f"it uses {_shown(node)}")


def _numpy(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Attribute(ast.Name("np"), name), [*arguments], [])


def _is_truth(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) or (isinstance(node, ast.BoolOp) and all(map(_is_truth, node.values)))


def _shown(node: ast.AST) -> str:
    return textwrap.shorten(ast.unparse(node), 60, placeholder=" ...")


def _double_quoted(text: str) -> str:
    """As formatters write it; `ast.unparse` quotes singly."""
    tokens: list[tuple[int, str, tuple[int, int], tuple[int, int], str]] = []
    for kind, string, start, end, line in tokenize.generate_tokens(io.StringIO(text).readline):
        plain = kind == tokenize.STRING and string[0] == "'" and '"' not in string and not string.startswith("'''")
        tokens.append((kind, f'"{string[1:-1]}"' if plain else string, start, end, line))
    return str(tokenize.untokenize(tokens))
