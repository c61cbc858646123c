"""The operator's file: every key has a default, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.apps.config import CONFIG_FILE, Config, load_config
from trilane.errors import SetupError


def _load(folder: Path, text: str = "", **environment: str) -> Config:
    (folder / CONFIG_FILE).write_text(text)
    return load_config(folder, environment=environment)


def test_an_empty_file_is_a_project(tmp_path: Path) -> None:
    config = _load(tmp_path)
    assert config == Config(
        root=tmp_path,
        name=tmp_path.name,
        definitions=tmp_path / "definitions.py",
        state=tmp_path / ".trilane",
        models=tmp_path / "models",
        models_mib=4_096,
        online=f"lmdb://{tmp_path}/.trilane/online",
        log=f"sqlite://{tmp_path}/.trilane/log",
        offline=f"duckdb://{tmp_path}/.trilane/warehouse",
        metadata=f"sqlite://{tmp_path}/.trilane/metadata.db",
        schema_registry="",
        host="127.0.0.1",
        port=8321,
        grpc_port=0,
        workers=1,
        feature_rows=10_000,
        cache_mib=32,
        nearline_workers=1,
        member="",
        replay=False,
        read_limit=50_000,
        retain=86_400_000_000,
        drain=0,
        log_format="text",
        traces="",
        trace_share=0.01,
        slow=1_000_000,
        log_level="info",
    )


@pytest.mark.parametrize("limit", ["0s", "10us", "soon"])
def test_a_store_is_given_some_time(tmp_path: Path, limit: str) -> None:
    with pytest.raises(SetupError, match=r"read_limit|soon"):
        _load(tmp_path, TRILANE_READ_LIMIT=limit)


def test_the_nearest_file_upwards_counts(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("port = 9000")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert load_config(deep, environment={}).port == 9000


def test_without_a_file_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no trilane\.toml") as caught:
        load_config(tmp_path, environment={})
    assert "trilane init" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("prot = 1", "prot"),
        ('port = "80"', "port"),
        ("port = 70000", "port"),
        ("workers = 0", "workers"),
        ("replay = 1", "replay"),
        ('log_level = "loud"', "log_level"),
        ("name = 3", "name"),
    ],
)
def test_an_unknown_key_or_a_wrong_value_is_named(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(SetupError) as caught:
        _load(tmp_path, text)
    assert caught.value.where == f"{tmp_path / CONFIG_FILE}: {where}"
    assert caught.value.remedy


def test_what_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"not TOML.*line 2"):
        _load(tmp_path, "port = 1\nhost = =")


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    config = _load(tmp_path, "port = 1", TRILANE_PORT="9001", TRILANE_REPLAY="true", TRILANE_STATE="/elsewhere")
    assert (config.port, config.replay, config.state) == (9001, True, Path("/elsewhere"))
    assert config.log == "sqlite:///elsewhere/log"


def test_a_wrong_value_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        _load(tmp_path, TRILANE_PORT="many")
    assert caught.value.where == "TRILANE_PORT"


def test_relative_paths_in_urls_are_relative_to_the_project_and_options_stay(tmp_path: Path) -> None:
    config = _load(tmp_path, 'log = "sqlite://events?sync=normal"\nonline = "valkey://host:6379/0"')
    assert config.log == f"sqlite://{tmp_path}/events?sync=normal"
    assert config.online == "valkey://host:6379/0"
