"""The rules of layout that neither the linter nor import-linter can say.

Each rule reads the source as a syntax tree, so nothing is imported and a line number can be named.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"

# A driver, and the modules that may import it: its adapters, whose names say so, or the layer it belongs to.
DRIVERS = {
    "deltalake": r"trilane\.stores\.offline\.delta(\.\w+)?",
    "duckdb": r"trilane\.\w+\.(.+\.)?duckdb(\.\w+)?",
    "fastavro": r"trilane\.sources\.formats\.avro",
    "feast": r"trilane\.apps\.feast_import\.reader",
    "google": r"trilane\.(sources\.formats\.protobuf|serving\.protocol\.oip_(messages|grpc))",
    "httptools": r"trilane\.apps\.server\.connection",
    "grpc": r"trilane\.apps\.server\.grpc",
    "httpx": r"trilane\.(apps\..+|sources\.schema_registry)",
    "joblib": r"trilane\.models\.runtime\.sklearn",
    "lightgbm": r"trilane\.models\..+",
    "lmdb": r"trilane\.stores\.online\.lmdb(\.\w+)?",
    "onnx": r"trilane\.models\..+",
    "onnxruntime": r"trilane\.models\.runtime\.\w+",
    "opentelemetry": r"trilane\.apps\.server\.traces",
    "orjson": r"trilane\.serving\.protocol\.(features|oip_tensors|rows)",
    "prometheus_client": r"trilane\.(serving\.(model_)?metrics|apps\..+)",
    "py4j": r"trilane\.stores\.offline\.spark(\.\w+)?",
    "pyiceberg": r"trilane\.stores\.offline\.iceberg(\.\w+)?",
    "pyspark": r"trilane\.stores\.offline\.spark(\.\w+)?",
    "rich": r"trilane\.apps\..+",
    "rustworkx": r"trilane\.(lifecycle|features)\..+",
    "skl2onnx": r"trilane\.models\..+",
    "sklearn": r"trilane\.models\..+",
    "sqlalchemy": r"trilane\.lifecycle\.metadata(\.\w+)?",
    "sqlite3": r"trilane\.\w+\.(.+\.)?sqlite(\.\w+)?",
    "typer": r"trilane\.apps\..+",
    "uvloop": r"trilane\.apps\.server\.working",
    "xgboost": r"trilane\.models\.runtime\.xgboost",
}

# These cost more to import than all of trilane may (0.2 s), so `import trilane` leaves them alone too.
HEAVY = ("ibis", "numpy", "pandas", "scipy")

# Words that say nothing at the end of a name: what such a thing really does has a better one.
EMPTY_WORDS = {"manager", "helper", "helpers", "utils", "util", "processor", "handle", "data", "info"}


@dataclass(frozen=True, kw_only=True)
class Module:
    """A source file as name, text and the nodes of its syntax tree, which each rule looks at."""

    name: str
    path: Path
    text: str
    nodes: tuple[ast.AST, ...]
    imports: tuple[tuple[str, ast.AST], ...]

    def at(self, node: ast.AST) -> str:
        """Where `node` stands, as an editor can open it."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def _module(path: Path) -> Module:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text()
    nodes = tuple(ast.walk(ast.parse(text, filename=str(path))))
    return Module(name=name, path=path, text=text, nodes=nodes, imports=tuple(_imports(nodes)))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node


MODULES = [_module(path) for path in sorted(SOURCE.rglob("*.py"))]


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_driver_is_imported_by_its_own_adapter_alone(driver: str) -> None:
    strays = [
        f"{module.at(node)} imports {name}"
        for module in MODULES
        if not re.fullmatch(DRIVERS[driver], module.name)
        for name, node in module.imports
        if name.partition(".")[0] == driver
    ]
    assert strays == []


def test_importing_trilane_loads_no_driver() -> None:
    watched = sorted({*DRIVERS, *HEAVY} - {"sqlite3"})
    code = f"import sys, trilane; print(*[name for name in {watched!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_only_apps_reads_the_environment() -> None:
    names = {"environ", "environb", "getenv", "getenvb"}
    strays = [
        module.at(node)
        for module in MODULES
        if not module.name.startswith("trilane.apps")
        for node in module.nodes
        if names & _taken_from(node, "os")
    ]
    assert strays == []


def test_only_the_clock_reads_the_time() -> None:
    strays = [
        module.at(node)
        for module in MODULES
        if module.name != "trilane.clock"
        for node in module.nodes
        if {"time", "time_ns"} & _taken_from(node, "time")
        or {"now", "utcnow"} & _taken_from(node, "datetime")
        or {"today"} & _taken_from(node, "date")
    ]
    assert strays == []


def test_modules_end_by_400_lines_and_functions_by_60() -> None:
    long = [module.name for module in MODULES if len(module.text.splitlines()) > 400]
    long += [
        f"{module.at(node)} {node.name}"
        for module in MODULES
        for node in module.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= 60
    ]
    assert long == []


def test_no_module_or_class_has_a_name_that_says_nothing() -> None:
    empty = [module.name for module in MODULES if _last_word(module.path.stem) in EMPTY_WORDS]
    empty += [
        f"{module.at(node)} {node.name}"
        for module in MODULES
        for node in module.nodes
        if isinstance(node, ast.ClassDef) and _last_word(node.name) in EMPTY_WORDS
    ]
    assert empty == []


def test_every_folder_of_source_is_a_package() -> None:
    folders = {path.parent for path in SOURCE.glob("trilane/**/*.py")}
    missing = [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()]
    assert missing == []


def _taken_from(node: ast.AST, origin: str) -> set[str]:
    """The names that `node` takes from `origin`: by `origin.name`, or by `from origin import name`."""
    if isinstance(node, ast.ImportFrom) and node.module == origin:
        return {alias.name for alias in node.names}
    if isinstance(node, ast.Attribute) and _last_name(node.value) == origin:
        return {node.attr}
    return set()


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _last_word(name: str) -> str:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return words[-1].lower() if words else ""
