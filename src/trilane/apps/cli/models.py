"""`trilane models list | show | add | load | unload`: models that are served from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, command, open_project

if TYPE_CHECKING:
    from trilane.apps.config import Config

__all__ = ["models"]

models = typer.Typer(
    name="models",
    help="List, add, load and unload models that are served from files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_Name = Annotated[str, typer.Argument(metavar="MODEL", help="The name of a model.")]


def list_(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """List all models with their versions: runtime, state, memory, and how long they took to load."""
    terminal = Terminal(json=json)
    rows = _rows(project)
    terminal.answer({"models": rows})
    headings = ["model", "version", "runtime", "state", "files MiB", "memory MiB", "load ms"]
    keys = ("name", "version", "runtime", "state", "files_mib", "memory_mib", "load_ms")
    terminal.table("Models", headings, [["" if row[key] is None else str(row[key]) for key in keys] for row in rows])
    for row in rows:
        if row["reason"]:
            terminal.tell(f"{row['name']}, version {row['version']}: {row['reason']}")
    if not rows:
        terminal.tell("There are no models yet; `trilane models add FILE` adds one.")


def show(*, model: _Name, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Show what a model takes and gives, and how it is run; a server must be running."""
    terminal = Terminal(json=json)
    with open_project(project) as opened:
        ask = _asker(opened.config)
        facts = ask("GET", f"/v2/models/{model}")
        told = ask("GET", f"/v2/models/{model}/config").get("parameters", {})
    settings = {name: one["string_value"] for name, one in told.items()}
    terminal.answer({**facts, "settings": settings})
    terminal.tell(f"[bold]{facts['name']}[/]: {facts['platform']}, versions {', '.join(facts['versions'])}")
    rows = [
        [side, one["name"], one["datatype"], str(one["shape"])] for side in ("inputs", "outputs") for one in facts[side]
    ]
    terminal.table("Tensors", ["", "name", "data type", "shape"], rows)
    terminal.table("Settings", ["setting", "value"], [[name, value] for name, value in sorted(settings.items())])


def add(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file of a model; its ending tells its kind.")],
    name: Annotated[str, typer.Option(help="The name of the model; default: the file's.")] = "",
    options: Annotated[Path | None, typer.Option(metavar="FILE", help="Its model.toml.")] = None,
    golden: Annotated[Path | None, typer.Option(metavar="FILE", help="Rows to check it by, as JSON.")] = None,
    processing: Annotated[Path | None, typer.Option(metavar="FILE", help="Python before and after it.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="The file may run code here.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Check a file and copy it into the folder of models, as the next version of a model."""
    from trilane.apps.model_files import add as add_file

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        done = add_file(
            opened.config, file, name=name, options=options, golden=golden, processing=processing, trust=trust
        )
    facts = {"name": done.name, "version": done.version, "path": str(done.path), "load_s": round(done.load_s, 4)}
    terminal.answer(facts)
    terminal.tell(f"[bold]{done.name}[/], version {done.version}, is there. It loaded in {done.load_s:.3f} s.")
    terminal.tell(f"A running server answers with it after `trilane models load {done.name}`.")


def load(*, model: _Name, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Load a model in all processes of the running server, anew if its files changed."""
    _switch(model, project, json=json, on=True)


def unload(*, model: _Name, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Unload a model once those who asked are answered; it is refused until it is loaded."""
    _switch(model, project, json=json, on=False)


def _switch(model: str, project: Path | None, *, json: bool, on: bool) -> None:
    from trilane.apps.model_files import switch

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        heard = switch(opened.config, model, _asker(opened.config), on=on)
    terminal.answer({"name": model, "loaded": on, "server": heard})
    done = "loaded" if on else "unloaded"
    terminal.tell(f"{model} is {done}." if heard else f"No server runs; {model} is noted as {done} for the next one.")


def _rows(project: Path | None) -> list[dict[str, Any]]:
    from trilane.apps.model_files import listed

    with open_project(project) as opened:
        return listed(opened.config, _asker(opened.config))


def _asker(config: Config) -> Any:  # noqa: ANN401 - JSON of any kind
    """Asks the running server. Raises UnavailableError if there is none, ModelError or the like for what it refuses."""
    import httpx

    from trilane.apps.server import address
    from trilane.errors import ContractError, UnavailableError

    url = address.read(config.state) or config.url

    def ask(method: str, path: str) -> Any:  # noqa: ANN401 - JSON of any kind
        try:
            answer = httpx.request(method, f"{url}{path}", timeout=120.0)
            found = answer.json()
        except (httpx.TransportError, ValueError) as error:
            remedy = "Start one with `trilane up`"
            raise UnavailableError(f"no server answers: {error}", where=url, remedy=remedy) from None
        if answer.is_error:
            raise ContractError(str(found.get("error", answer.text)), where=path)
        return found

    return ask


for _word, _function in (("list", list_), ("show", show), ("add", add), ("load", load), ("unload", unload)):
    models.command(_word)(command(_function))
