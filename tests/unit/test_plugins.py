"""URLs open the adapters that packages offer, and say what is wrong with themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.errors import SetupError
from trilane.plugins import local_path, make_folder, open_adapter, options, scheme


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages: `ours` offers a shelf, and a fridge whose driver is not installed."""
    (tmp_path / "our_shelf.py").write_text("def open_shelf(url):\n    return ['shelf', url]\n")
    (tmp_path / "our_fridge.py").write_text("import a_driver_that_nobody_has\n")
    package = tmp_path / "ours-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[trilane.furniture]\nshelf = our_shelf:open_shelf\nfridge = our_fridge:open_fridge\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_scheme_of_a_url_names_the_adapter(site: Path) -> None:
    assert open_adapter("furniture", "shelf://here?wide=1") == ["shelf", "shelf://here?wide=1"]


def test_an_unknown_scheme_is_refused_with_those_installed(site: Path) -> None:
    with pytest.raises(SetupError, match="no adapter of furniture is called 'sofa'") as caught:
        open_adapter("furniture", "sofa://here")
    assert caught.value.where == "sofa://here"
    assert caught.value.remedy == "Use one of fridge, shelf"


def test_a_missing_driver_is_named_with_the_command_that_brings_it(site: Path) -> None:
    with pytest.raises(SetupError, match="a_driver_that_nobody_has") as caught:
        open_adapter("furniture", "fridge://here")
    assert "pip install 'ours[fridge]'" in caught.value.remedy


def test_two_packages_that_offer_the_same_scheme_are_refused(site: Path) -> None:
    package = site / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[trilane.furniture]\nshelf = their_shelf:open_shelf\n")
    with pytest.raises(SetupError, match="our_shelf:open_shelf, their_shelf:open_shelf"):
        open_adapter("furniture", "shelf://here")


def test_what_another_path_offers_is_found_though_the_group_was_asked_for_before(
    site: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_adapter("furniture", "shelf://here")
    package = (further := tmp_path_factory.mktemp("further")) / "more-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[trilane.furniture]\nsofa = our_shelf:open_shelf\n")
    monkeypatch.syspath_prepend(str(further))
    assert open_adapter("furniture", "sofa://here") == ["shelf", "sofa://here"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("lmdb://.trilane/online", ".trilane/online"),
        ("sqlite:///var/lib/log", "/var/lib/log"),
        ("lmdb:here", "here"),
        ("lmdb:/here", "/here"),
        ("lmdb://a b%20c?map_size=1GiB", "a b%20c"),
    ],
)
def test_what_follows_the_scheme_is_a_path(url: str, path: str) -> None:
    assert local_path(url) == Path(path)


@pytest.mark.parametrize("url", ["lmdb://", "lmdb:", "lmdb://?a=1"])
def test_a_url_without_a_path_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="no path"):
        local_path(url)


@pytest.mark.parametrize("url", ["here", "://here", ""])
def test_a_url_without_a_scheme_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="no scheme"):
        scheme(url)


def test_options_follow_a_question_mark() -> None:
    assert options("lmdb://here?a=1&b=x%20y") == {"a": "1", "b": "x y"}
    assert options("lmdb://here") == {}


@pytest.mark.parametrize("url", ["lmdb://here?size=1", "lmdb://here?map_size"])
def test_unknown_and_malformed_options_are_refused(url: str) -> None:
    with pytest.raises(SetupError):
        options(url, known=["map_size"])


def test_a_folder_that_cannot_be_made_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be made") as caught:
        make_folder(tmp_path / "file" / "folder")
    assert caught.value.where == str(tmp_path / "file" / "folder")
