"""What an author's function computes, as text: equal texts mean equal code, whatever the comments and the layout.

Law: the text covers the function, the functions and data of its own module that it names, and theirs in turn. What it
imports from elsewhere counts by name alone; library versions are the artifact's business.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

__all__ = ["code_text"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def code_text(function: Callable[..., Any]) -> str:
    """The text of `function` and of all it depends on in its module."""
    seen: dict[str, str] = {}
    _visit(function, function.__module__, seen)
    return "\n".join(f"{name} = {text}" for name, text in sorted(seen.items()))


def _visit(function: Callable[..., Any], module: str, seen: dict[str, str]) -> None:
    if function.__qualname__ in seen:
        return
    seen[function.__qualname__] = _tree(function)
    enclosed = inspect.getclosurevars(function)
    for name, value in {**enclosed.globals, **enclosed.nonlocals}.items():
        if isinstance(value, types.FunctionType) and value.__module__ == module:
            _visit(value, module, seen)
        else:
            seen[name] = _value_text(value)


def _tree(function: Callable[..., Any]) -> str:
    """The syntax tree without comments, layout, decorators and docstring."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        code = function.__code__
        return f"{code.co_code.hex()}:{code.co_consts!r}:{code.co_names!r}"
    node = tree.body[0]
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree, include_attributes=False)


def _value_text(value: object) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(_value_text, value))})"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({', '.join(sorted(map(_value_text, value)))})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{_value_text(k)}: {_value_text(v)}' for k, v in value.items())})"
    if type(value).__module__ == "numpy":
        return f"{value!r:.40} {getattr(value, 'tobytes', bytes)().hex()}"
    return str(getattr(value, "__qualname__", getattr(value, "__name__", type(value).__qualname__)))
