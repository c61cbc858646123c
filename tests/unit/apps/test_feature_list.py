"""The facts of features, as `trilane features` lists, shows and searches them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.shop import DEFINITIONS, make_project
from trilane.apps import training_job
from trilane.apps.cli.commands import app
from trilane.apps.definitions import Definitions, load_definitions
from trilane.apps.feature_list import chosen, feature_facts, found, named
from trilane.errors import DefinitionError
from trilane.training.training_set import TrainingSet

OWNED = (
    DEFINITIONS.replace(
        'disorder="10m")', 'disorder="10m", owner="till", tags=["pii"], description="Each order paid at a till.")'
    )
    .replace(
        '"n_7d": tl.count(window="7d")})',
        '"n_7d": tl.count(window="7d")}, owner="pricing", tags=["team=shop", "slow"])',
    )
    .replace(
        "def shop_daily(orders):", 'def shop_daily(orders):\n    """Turnover of a\n    week.\n\n    More of it."""'
    )
)


@pytest.fixture
def definitions(tmp_path: Path) -> Definitions:
    return _read(tmp_path / "owned.py", OWNED)


def _read(path: Path, text: str) -> Definitions:
    path.write_text(text)
    return load_definitions(path)


def test_an_owner_tags_and_a_description_change_no_version(definitions: Definitions, tmp_path: Path) -> None:
    plain = _read(tmp_path / "plain.py", DEFINITIONS)
    assert {n: v.version for n, v in plain.views.items()} == {n: v.version for n, v in definitions.views.items()}
    assert plain.views["shop_daily"].spec() != definitions.views["shop_daily"].spec()
    assert plain.sources["orders"].spec() != definitions.sources["orders"].spec()


def test_the_first_paragraph_of_a_docstring_describes_a_view(definitions: Definitions) -> None:
    assert definitions.views["shop_daily"].about.description == "Turnover of a week."
    assert definitions.views["shop_now"].about.description == ""


def test_tags_that_are_one_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"tags='pii' is no list"):
        _read(tmp_path / "bad.py", OWNED.replace('tags=["pii"]', 'tags="pii"'))


def test_a_feature_tells_how_it_is_made_and_who_uses_it(definitions: Definitions) -> None:
    (mean,) = named(feature_facts(definitions), "shop_now.mean_1h")
    assert (mean["lane"], mean["type"], mean["entity"], mean["source"]) == ("nearline", "float64", "shop", "orders")
    assert (mean["aggregation"], mean["window"], mean["default"]) == ("mean(amount)", "1h", 0.0)
    assert mean["fallback"] == ["stale up to 10m", "last batch of shop_daily up to 36h", "the default"]
    assert (mean["models"], mean["endpoints"], mean["used_by_views"]) == (["big"], ["is_big"], ["basket"])
    assert mean["version"] == definitions.views["shop_now"].version
    assert mean["statistics"] is None


@pytest.mark.parametrize(
    ("wanted", "views"),
    [
        ({"lane": "request"}, {"basket"}),
        ({"source": "orders", "owner": "pricing"}, {"shop_daily"}),
        ({"tag": "team"}, {"shop_daily"}),
        ({"tag": "team=shop"}, {"shop_daily"}),
        ({"tag": "pii"}, {"shop_daily", "shop_now"}),
        ({"entity": "shop", "lane": None}, {"shop_daily", "shop_now"}),
        ({"owner": "nobody"}, set()),
    ],
)
def test_features_are_chosen_by_what_is_known_of_them(
    definitions: Definitions, wanted: dict[str, str | None], views: set[str]
) -> None:
    assert {one["view"] for one in chosen(feature_facts(definitions), wanted)} == views


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("turnover", "shop_daily.mean_7d"),
        ("turnovr week", "shop_daily.mean_7d"),
        ("over_mean", "basket.over_mean"),
        ("std", "shop_now.std_1h"),
        ("baskt", "basket.basket"),
    ],
)
def test_a_search_finds_words_misspelt_or_not(definitions: Definitions, text: str, first: str) -> None:
    assert found(feature_facts(definitions), text)[0]["name"] == first


@pytest.mark.parametrize("text", ["", "...", "zebra", "turnover zebra"])
def test_a_search_for_what_is_nowhere_finds_nothing(definitions: Definitions, text: str) -> None:
    assert found(feature_facts(definitions), text) == []


def test_an_unknown_feature_is_refused_with_what_is_alike(definitions: Definitions) -> None:
    with pytest.raises(DefinitionError, match="'shop_dayly'") as error:
        named(feature_facts(definitions), "shop_dayly")
    assert "shop_daily" in error.value.remedy


def test_statistics_come_from_the_newest_training_set(tmp_path: Path) -> None:
    with make_project(tmp_path / "shop") as project:
        training_set = training_job.train(project, "big").training_set
        told = {one["name"]: one["statistics"] for one in feature_facts(project.working, [training_set])}
        assert told["basket.basket"]["rows"] == len(training_set)
        assert told["basket.basket"]["training_set"] == training_set.digest
        assert told["basket.basket"]["of_this_version"]
        assert TrainingSet.load(training_set.folder).statistics["basket.basket"].mean == told["basket.basket"]["mean"]
    shown = CliRunner().invoke(
        app, ["features", "show", "basket.basket", "--project", str(tmp_path / "shop"), "--json"]
    )
    assert json.loads(shown.stdout)["features"][0]["statistics"] == told["basket.basket"]


def test_the_commands_speak_to_people_and_to_machines(tmp_path: Path) -> None:
    make_project(tmp_path).close()
    where = ["--project", str(tmp_path)]
    machine = CliRunner().invoke(app, ["features", "list", "--lane", "batch", "--json", *where])
    assert [one["name"] for one in json.loads(machine.stdout)["features"]] == ["shop_daily.mean_7d", "shop_daily.n_7d"]
    assert "shop_now" in CliRunner().invoke(app, ["features", "search", "std", *where], env={"COLUMNS": "200"}).stdout
    assert "lifetime" not in CliRunner().invoke(app, ["features", "show", "shop_now", *where]).stdout
    assert "No feature fits" in CliRunner().invoke(app, ["features", "search", "zebra", *where]).stdout
    assert CliRunner().invoke(app, ["features", "show", "zebra", "--json", *where]).exit_code == 2
