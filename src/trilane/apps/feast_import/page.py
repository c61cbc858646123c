"""The text of a definitions file: blocks of Python as a formatter leaves them, and comments on where each is from.

Laws: what is taken over from elsewhere keeps its lines, long or not; every name of the file is an identifier and means
one thing; the same blocks give the same text.
"""

from __future__ import annotations

import json
import keyword
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["Names", "Options", "call", "comment", "function", "literal", "page", "quoted_source", "told"]

_WIDTH = 100
Options: TypeAlias = Mapping[str, str | Mapping[str, str] | Sequence[str]]
_RESERVED = ("tl", "np", "print")


class Names:
    """Gives out names, each once."""

    def __init__(self) -> None:
        self._taken = {*keyword.kwlist, *_RESERVED}

    def give(self, wanted: str, *, other: str = "") -> str:
        """An identifier like `wanted`; if that is taken, like `other`, or with a number."""
        plain = identifier(wanted)
        tries = [plain, *([identifier(other)] if other else []), *(f"{plain}_{n}" for n in range(2, 1_000))]
        name = next(one for one in tries if one not in self._taken)
        self._taken.add(name)
        return name


def identifier(text: str) -> str:
    """`text` with everything else than letters, digits and _ replaced.

    >>> identifier("driver-stats"), identifier("7d_mean")
    ('driver_stats', 'f_7d_mean')
    """
    plain = re.sub(r"\W", "_", text) or "unnamed"
    return plain if plain.isidentifier() else f"f_{plain}"


def literal(value: object) -> str:
    """A text or a list of texts as Python."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def told(owner: str, tags: Mapping[str, str]) -> dict[str, str]:
    """`owner=` and `tags=` as options of a call."""
    return {
        "owner": literal(owner) if owner else "",
        "tags": literal([f"{key}={value}" for key, value in tags.items()]) if tags else "",
    }


def comment(*texts: str) -> list[str]:
    """Lines of comment, each text wrapped."""
    return [
        f"# {line}".rstrip()
        for text in texts
        for line in textwrap.wrap(text, _WIDTH - 2, subsequent_indent="  " if text.startswith("- ") else "") or [""]
    ]


def quoted_source(text: str) -> list[str]:
    """Source code as a comment."""
    return [f"#     {line}".rstrip() for line in textwrap.dedent(text).strip("\n").splitlines()]


def call(opening: str, *positional: str, options: Options) -> list[str]:
    """A call on many lines; an option may be a mapping or a list of expressions. Empty options are left out."""
    lines = [f"{opening}(", *(f"    {one}," for one in positional)]
    for name, value in options.items():
        if not value:
            continue
        if isinstance(value, str):
            lines.append(f"    {name}={value},")
        elif isinstance(value, Mapping):
            lines += [f"    {name}={{", *(line for pair in value.items() for line in _entry(*pair)), "    },"]
        else:
            lines += [f"    {name}=[", *(f"        {one}," for one in value), "    ],"]
    return [*lines, ")"]


def _entry(name: str, value: str) -> list[str]:
    """`value` may begin with a comment line."""
    *remarks, expression = value.split("\n")
    return [*(f"        {remark}" for remark in remarks), f"        {literal(name)}: {expression},"]


def function(name: str, parameter: str, description: str, body: Sequence[str]) -> list[str]:
    """A function; its docstring, if there is a description, ends in one line or is wrapped."""
    lines = [f"def {name}({parameter}):"]
    if description.strip():
        told = textwrap.wrap(description.replace("\\", "\\\\").replace('"""', "'''"), _WIDTH - 4)
        whole = f'"""{told[0]}"""' if len(told) == 1 and not told[0].endswith('"') else ""
        lines += [f"    {whole}"] if whole else [f'    """{told[0]}', *(f"    {one}" for one in told[1:]), '    """']
    return [*lines, *(f"    {line}".rstrip() for line in body)]


def page(opening: str, imports: Sequence[str], blocks: Sequence[Sequence[str]], spaced: Sequence[bool]) -> str:
    """The whole file; a block that is `spaced` (a function) stands between two empty lines."""
    lines = [f'"""{opening}"""', "", *imports]
    before = True
    for block, wide in zip(blocks, spaced, strict=True):
        lines += ["", "", *block] if wide or before else ["", *block]
        before = wide
    return "\n".join(lines) + "\n"
