"""What counts as a change of an author's function."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trilane.features.code import code_text

SOURCE = '''
import numpy as np

RATE = 3
TABLE = np.array([1, 2, 3])


def helper(x):
    return x * RATE


def view(request):
    """What it says."""
    return {"a": helper(request["a"]) + TABLE[0]}  # why
'''


@pytest.fixture
def text_of(tmp_path: Path) -> Callable[[str], str]:
    count = iter(range(100))

    def text(source: str) -> str:
        path = tmp_path / f"module_{next(count)}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("authored", path)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return code_text(module.view)

    return text


@pytest.mark.parametrize(
    ("before", "after"), [("# why", "# because"), ("What it says.", "Other words."), ('{"a": helper', '{\n"a": helper')]
)
def test_comments_docstrings_and_layout_change_nothing(text_of: Callable[[str], str], before: str, after: str) -> None:
    assert text_of(SOURCE) == text_of(SOURCE.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [("+ TABLE[0]", "- TABLE[0]"), ("x * RATE", "x + RATE"), ("RATE = 3", "RATE = 4"), ("[1, 2, 3]", "[1, 2, 4]")],
)
def test_the_function_its_helpers_and_their_data_change_it(
    text_of: Callable[[str], str], before: str, after: str
) -> None:
    assert text_of(SOURCE) != text_of(SOURCE.replace(before, after))
