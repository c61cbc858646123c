"""The root exports are few, sorted, and exactly what `__all__` says."""

from __future__ import annotations

import types

import trilane


def test_the_exports_are_sorted_and_named_once() -> None:
    assert list(trilane.__all__) == sorted(set(trilane.__all__))


def test_each_export_exists() -> None:
    missing = [name for name in trilane.__all__ if not hasattr(trilane, name)]
    assert missing == []


def test_there_is_no_public_name_besides_the_exports() -> None:
    strays = {
        name
        for name, value in vars(trilane).items()
        if not name.startswith("_")
        and name not in trilane.__all__
        and not (isinstance(value, types.ModuleType) and value.__name__ == f"trilane.{name}")
    }
    assert strays == set()
