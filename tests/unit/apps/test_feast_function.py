"""On-demand functions of Feast, rewritten for NumPy columns: they mean the same, or are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from trilane.apps.feast_import.function import Untranslatable, rewritten

NAMES = {"np": "module numpy", "pd": "module pandas", "math": "module math", "LIMIT": "value 3", "f": "function f"}
COLUMNS = {"a": "view.a", "b": "b", "view__a": "view.a"}
A, B = np.array([1.0, -4.0, np.nan]), np.array([2, 5, 0])


def _run(text: str, mode: str, *, singleton: bool = False) -> dict[str, list[float]]:
    result = rewritten(text, mode=mode, singleton=singleton, names=NAMES, columns=COLUMNS)
    body = "\n".join(f"    {line}" for line in result.body)
    space: dict[str, object] = {"np": np}
    exec(f"def run({result.parameter}):\n{body}", space)
    with np.errstate(all="ignore"):
        out = space["run"]({"view.a": A, "b": B})  # type: ignore[operator]
    return {name: [float(one) for one in np.broadcast_to(values, 3)] for name, values in out.items()}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('inputs["a"] + inputs["b"]', A + B),
        ('-inputs["view__a"] * 2 ** 3 / (inputs["b"] - 1)', -A * 8 / (B - 1)),
        ('inputs["b"] % LIMIT // 2', B % 3 // 2),
        ('inputs["a"].fillna(7).abs()', np.array([1.0, 4.0, 7.0])),
        ('inputs["a"].clip(lower=-1, upper=1)', np.clip(A, -1, 1)),
        ('inputs["a"].clip(-1, 1).astype("float64")', np.clip(A, -1, 1)),
        ('np.where((inputs["b"] > 1) & ~(inputs["b"] == 5), np.sqrt(inputs["b"]), 0)', np.array([2**0.5, 0, 0])),
        ('inputs["a"].isna()', np.isnan(A)),
        ('abs(inputs["a"].values)', np.abs(A)),
    ],
)
def test_column_arithmetic_means_the_same(expression: str, expected: np.ndarray) -> None:
    text = f"@odfv(x=1)\ndef view(inputs):\n    df = pd.DataFrame()\n    df['x'] = {expression}\n    return df\n"
    np.testing.assert_array_equal(_run(text, "pandas")["x"], expected)


def test_comprehensions_become_columns() -> None:
    text = """
    def view(rows):
        half = [b / 2 for b in rows["b"]]
        return {"x": [math.floor(h) if h > 1 or b < 1 else max(h, b) for h, b in zip(half, rows["b"])], "half": half}
    """
    assert _run(text, "python") == {"x": [2.0, 2.0, 0.0], "half": [1.0, 2.5, 0.0]}


def test_the_values_of_one_row_become_columns() -> None:
    text = (
        'def view(row):\n    """Told."""\n    x = row["b"] if row["b"] >= 2 else -1\n    return {"x": min(x, LIMIT)}\n'
    )
    assert _run(text, "python", singleton=True) == {"x": [2.0, 3.0, -1.0]}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('return {"x": inputs["b"].rank()}', "rank"),
        ('return {"x": inputs["b"].mean()}', "mean"),
        ('return {"x": f(inputs["b"])}', "f"),
        ('return {"x": inputs["b"] if inputs["b"] else 1}', "if"),
        ('return {"x": np.cumsum(inputs["b"])}', "cumsum"),
        ('return {"x": inputs["gone"]}', "'gone' has no counterpart"),
        ('return {"x": inputs["b"].clip(upper=1)}', "clip"),
        ('return {"x": inputs["b"].astype(str)}', "astype"),
        ('return {"x": undefined}', "undefined"),
        ('return {"x": inputs}', "inputs"),
        ('for one in inputs["b"]:\n        pass', "more than assignments"),
        ('return pd.DataFrame(inputs["b"])', "DataFrame"),
        ('x = {"x": inputs["b"]}', "returns nothing"),
        ('return {"x": 1}\n    y = 2', "after its return"),
        ("inputs['b'] = 1\n    return inputs", "assigns"),
        ('return {"x": lambda: 1}', "lambda"),
        ('return {"x": 1 < inputs["b"] < 2}', "<"),
        ("return {**inputs}", "inputs"),
    ],
)
def test_what_might_mean_something_else_is_left_alone(body: str, reason: str) -> None:
    with pytest.raises(Untranslatable) as error:
        _run(f"def view(inputs):\n    {body}\n", "pandas")
    assert reason in str(error.value)


@pytest.mark.parametrize("text", ["", "def view(a, b):\n    return a", "x = 1", "def (", "view = lambda x: x"])
def test_what_is_no_function_of_one_argument_is_left_alone(text: str) -> None:
    with pytest.raises(Untranslatable):
        _run(text, "pandas")


def test_lists_are_not_added_like_columns() -> None:
    with pytest.raises(Untranslatable, match="list other than by a comprehension"):
        _run('def view(inputs):\n    return {"x": inputs["a"] + inputs["b"]}', "python")
    with pytest.raises(Untranslatable, match="leaves rows out"):
        _run('def view(inputs):\n    return {"x": [b for b in inputs["b"] if b > 1]}', "python")


@pytest.mark.parametrize("mode", ["substrait", "spark", ""])
def test_other_modes_are_left_alone(mode: str) -> None:
    with pytest.raises(Untranslatable, match="mode"):
        _run('def view(inputs):\n    return {"x": inputs["a"]}', mode)
