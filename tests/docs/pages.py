"""Reads the fenced blocks of a Markdown page, with what a comment above each says about running it.

tests/README.md gives the convention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w+-]*)")
_DIRECTIVE = re.compile(r"^ *<!-- *(?P<name>file|output|exit|background|no-run)(?:: *(?P<value>.*?))? *-->\s*$")
_SNIPPET = re.compile(r'^ *-{1,}8<-{1,} "(?P<path>[^"]+)" *$')


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block: where its first line stands, its language, its text and its directives."""

    line: int
    language: str
    text: str
    directives: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line of a console block that starts with `$`, and the output shown below it."""

    line: int
    text: str
    output: str


def blocks(markdown: str, *, root: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order; files named by snippet lines are read below `root`."""
    lines = markdown.splitlines()
    directives: dict[str, str] = {}
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        directive = _DIRECTIVE.match(lines[at])
        if fence:
            start = at + 1
            end = _closing(lines, start, fence["fence"])
            body = [line.removeprefix(fence["indent"]) for line in lines[start:end]]
            yield Block(
                line=start + 1,
                language=fence["language"],
                text="\n".join(_expanded(line, root) for line in body) + "\n",
                directives=directives,
            )
            directives = {}
            at = end
        elif directive:
            directives = {**directives, directive["name"]: directive["value"] or ""}
        elif lines[at].strip():
            directives = {}
        at += 1


def commands(block: Block) -> list[Command]:
    """Split a console block into its commands; a line that ends in a backslash goes on."""
    found: list[Command] = []
    for number, line in enumerate(block.text.replace("\\\n", " ").splitlines()):
        if line.startswith("$ "):
            found.append(Command(line=block.line + number, text=line[2:], output=""))
        elif found:
            last = found[-1]
            found[-1] = Command(line=last.line, text=last.text, output=f"{last.output}{line}\n")
    return found


def _closing(lines: list[str], start: int, fence: str) -> int:
    for at in range(start, len(lines)):
        if lines[at].strip().startswith(fence) and not lines[at].strip().strip(fence[0]):
            return at
    raise ValueError(f"line {start}: the block that opens here is never closed")


def _expanded(line: str, root: Path) -> str:
    snippet = _SNIPPET.match(line)
    return (root / snippet["path"]).read_text().rstrip("\n") if snippet else line
