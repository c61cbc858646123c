"""Every example that we show a reader runs: pages, README and docstrings."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import linecache
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import trilane
from tests.docs.pages import Block, Command, blocks, commands
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(trilane.__path__, "trilane.")
    if not module.name.endswith("__main__")  # importing it would start the program
)
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PROGRAMS = {"trilane", "python"}
DEFAULT_PORT = "8321"


@pytest.mark.timeout(400)  # a page may run many commands, each of which has 100 s
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # A real module, so that classes defined on the page resolve their annotations and pickle.
    module = types.ModuleType("page_" + re.sub(r"\W", "_", page.stem))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # What a page starts must not meet what another one, or the reader of this line, has started.
    port = str(free_port())
    monkeypatch.setenv("TRILANE_PORT", port)
    with contextlib.ExitStack() as started:
        started.callback(_close_clients, module)
        _run_page(page, page.read_text().replace(DEFAULT_PORT, port), module, tmp_path, started)


def _close_clients(module: types.ModuleType) -> None:
    """Closes what a reader's interpreter would close at its end."""
    for value in vars(module).values():
        if isinstance(value, httpx.Client):
            value.close()


def _run_page(
    page: Path, markdown: str, module: types.ModuleType, tmp_path: Path, started: contextlib.ExitStack
) -> None:
    printed = ""
    for block in blocks(markdown, root=ROOT):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if "no-run" in block.directives:
            _check_unrun(block, where)
        elif "background" in block.directives:
            for command in commands(block):
                started.enter_context(_running(command, where))
        elif "file" in block.directives:
            _write(block, tmp_path, where)
        elif "output" in block.directives:
            _check_output(block.text, printed, where)
        elif block.language == "python":
            printed = _run_python(block, module, page)
        elif block.language == "console":
            expected_exit = int(block.directives.get("exit", "0"))
            shown = commands(block)
            for command in shown:
                _run_command(
                    command,
                    expected_exit if command is shown[-1] else 0,
                    f"{page.relative_to(ROOT)}:{command.line}",
                )


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_modules_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        result = doctest.testmod(importlib.import_module(name), optionflags=LENIENT)
    assert result.failed == 0, report.getvalue()


def _check_unrun(block: Block, where: str) -> None:
    assert block.directives["no-run"], f"{where}: say why it is not run: <!-- no-run: the reason -->"
    if block.language == "python":
        compile(block.text, where, "exec")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^(?:\$ )?make ([a-z]+)", block.text, re.MULTILINE))
    assert named <= targets, f"{where}: the Makefile has no target {sorted(named - targets)}"


def _write(block: Block, folder: Path, where: str) -> None:
    path = (folder / block.directives["file"]).resolve()
    assert path.is_relative_to(folder), f"{where}: {path} is outside the page's folder"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)


def _run_python(block: Block, module: types.ModuleType, page: Path) -> str:
    # Empty lines put in front make a traceback name the page's own line.
    source = "\n" * (block.line - 1) + block.text
    filename = str(page)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, filename, "exec"), module.__dict__)
    return printed.getvalue()


def _run_command(command: Command, expected_exit: int, where: str) -> None:
    done = subprocess.run(
        _argv(command, where),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=_environment(),
        timeout=100,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == expected_exit, f"{where}: `{command.text}` ended with {done.returncode}:\n{said}"
    if command.output.strip():
        _check_output(command.output, said, where)


@contextlib.contextmanager
def _running(command: Command, where: str) -> Iterator[None]:
    """Runs a command until the page ends; goes on when its server answers."""
    with Path("background.log").open("wb") as log:
        process = subprocess.Popen(
            _argv(command, where), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
        )
    try:
        url = f"http://127.0.0.1:{os.environ['TRILANE_PORT']}/health/live"
        while True:
            assert process.poll() is None, f"{where}: it ended: {Path('background.log').read_text()}"
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            time.sleep(0.05)  # between two looks at the condition itself
        yield
    finally:
        process.terminate()
        process.wait(30)


def _argv(command: Command, where: str) -> list[str]:
    program, *arguments = shlex.split(command.text)
    assert program in PROGRAMS, f"{where}: only {sorted(PROGRAMS)} run; else say no-run, and why"
    return [sys.executable, *(["-m", "trilane"] if program == "trilane" else []), *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}


def _check_output(shown: str, printed: str, where: str) -> None:
    matches = doctest.OutputChecker().check_output(shown, printed, LENIENT)
    assert matches, f"{where}: shown:\n{shown}\nprinted:\n{printed}"
