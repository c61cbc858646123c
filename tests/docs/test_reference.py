"""The reference leaves nothing out: names, options, keys, metrics, errors and routes, held against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

import trilane
from trilane.apps import config
from trilane.apps.cli.commands import app
from trilane.apps.server.routes import ROUTES
from trilane.errors import TrilaneError
from trilane.features.fallback import STATUSES
from trilane.serving.metrics import Metrics

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def _commands(group: Any, before: str = "") -> dict[str, Any]:
    """Every command by its whole name, those of groups too."""
    found: dict[str, Any] = {}
    for name, one in group.commands.items():
        found |= _commands(one, f"{before}{name} ") if hasattr(one, "commands") else {f"{before}{name}": one}
    return found


COMMANDS = _commands(typer.main.get_command(app))
ERRORS = (TrilaneError, *TrilaneError.__subclasses__())


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def row(text: str, first: str) -> str:
    """The table row whose first cell is `first` as code."""
    found = [line for line in text.splitlines() if line.startswith(f"| `{first}`")]
    assert found, f"no row for {first}"
    return found[0]


@pytest.mark.parametrize("name", trilane.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    pages = page("definitions") + page("aggregations") + page("aggregation-catalogue") + page("errors") + page("client")
    assert re.search(rf"`(@?tl\.)?{name}\b", pages), f"{name} is in no page of the reference"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_all_its_options_and_no_other(name: str) -> None:
    text = page("cli")
    section = re.search(rf"^### `trilane {name}.*?(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"no section for trilane {name}"
    own = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}
    everywhere = {"--project", "--json", "--debug", "--help"}
    documented = set(re.findall(r"^\| `(--[a-z0-9-]+)", section[0], re.MULTILINE))
    assert documented == own - everywhere
    assert everywhere <= set(re.findall(r"^\| `(--[a-z0-9-]+)", text, re.MULTILINE))


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    text = page("configuration")
    for field in msgspec.structs.fields(config._Keys):
        default = f'"{field.default}"' if isinstance(field.default, str) else str(field.default).lower()
        assert field.default == "" or f"`{default}`" in row(text, field.name)


def test_the_metrics_page_names_exactly_the_metrics_there_are() -> None:
    there = {metric.name for metric in Metrics(shared=False)._own.collect()}
    kinds = {m.name: f"{m.name}_total" if m.type == "counter" else m.name for m in Metrics(shared=False)._own.collect()}
    documented = set(re.findall(r"^\| `(trilane_\w+)`", page("metrics"), re.MULTILINE))
    assert documented == {kinds[name] for name in there}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_documented_with_its_code_exit_status_and_http_status(error: type[TrilaneError]) -> None:
    cells = [cell.strip() for cell in row(page("errors"), error.__name__).split("|")]
    assert f"`{error.code}`" in cells
    assert str(error.exit_code) in cells
    assert any(cell.startswith(str(error.http_status)) for cell in cells)
    assert cells[-2] == ("yes" if error.retryable else "no")


def test_every_route_is_documented() -> None:
    text = page("http")
    # A path with a version is one without it, as the page says once.
    routes = [f"{route.method} {route.path.replace('/versions/{version}', '')}" for route in ROUTES]
    assert [route for route in routes if f"| `{route}`" not in text] == []


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_documented(status: str) -> None:
    assert row(page("statuses"), status)
