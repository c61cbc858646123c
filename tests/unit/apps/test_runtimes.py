"""A declared model may be kept in a library's own format or as Python; it is deployed, and answers the same bits."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from tests.unit.apps.conftest import Opener
from trilane.apps import deploy, training_job
from trilane.apps.server.compiling import compile_bundle
from trilane.errors import ConflictError, DefinitionError, ModelError
from trilane.models.artifact import load
from trilane.models.own_process import OwnProcess
from trilane.serving.engine import rebuild

RULES = """
import numpy as np

class Rules:
    def __init__(self, fitted):
        self.fitted = fitted
    def predict(self, matrix):
        matrix = np.nan_to_num(matrix)
        if matrix.max() > 1e6:
            raise ValueError("too many visits")
        return np.where(matrix.sum(axis=1) > 100, 1.0, self.fitted.predict_proba(matrix)[:, 1])
"""
TRAIN = {
    "lightgbm": """
    import lightgbm
    return lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=5, verbose=-1).fit(rows.matrix, rows.label)
""",
    "xgboost": """
    import xgboost
    return xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(rows.matrix, rows.label)
""",
    "python": """
    from sklearn.tree import DecisionTreeClassifier
    return rules.Rules(DecisionTreeClassifier(max_depth=2, random_state=0).fit(rows.matrix, rows.label))
""",
}


def _declare(folder: Path, runtime: str, body: str) -> None:
    text = (folder / "definitions.py").read_text()
    start, stop = text.index("    from sklearn.tree"), text.index("stays = tl.Model")
    text = f"{text[:start]}{body}\n{text[stop:]}".replace("train=train)", f"train=train, runtime={runtime})")
    (folder / "definitions.py").write_text(f"import rules\n{text}")
    (folder / "rules.py").write_text(RULES)


@pytest.mark.parametrize("runtime", ["lightgbm", "xgboost", "python"])
def test_a_model_of_any_runtime_is_trained_deployed_and_answers_its_golden_rows(
    opened: Opener, folder: Path, runtime: str
) -> None:
    _declare(folder, repr(runtime), TRAIN[runtime])
    deploy.apply(opened())
    first = training_job.train(opened(), "stays").artifact
    assert first.manifest.runtime == runtime
    assert (first.path / "code" / "rules.py").exists() == (runtime == "python")
    deploy.apply(opened())
    golden = first.golden()
    with contextlib.closing(compile_bundle(opened(), opened().bundles()["ask"])) as engine:
        assert engine.runtime.predict(golden.matrix()).tobytes() == golden.expected().tobytes()
        names, row = engine.reader.plan.names, golden.matrix()[0].tolist()
        assert rebuild(engine, dict(zip(names, row, strict=True))) == golden.expected()[0]


def test_the_same_training_keeps_the_same_bytes_of_a_python_object(opened: Opener, folder: Path) -> None:
    _declare(folder, "'python'", TRAIN["python"])
    deploy.apply(opened())
    first, second = (training_job.train(opened(), "stays") for _ in range(2))
    assert (second.is_new, second.artifact.digest) == (False, first.artifact.digest)


def test_another_runtime_asks_for_another_artifact(opened: Opener, folder: Path) -> None:
    deploy.apply(opened())
    training_job.train(opened(), "stays")
    deploy.apply(opened())
    before = opened().bundles()["ask"]
    _declare(folder, "'python'", TRAIN["python"])
    texts = [effect.text for effect in deploy.plan(opened()).effects if effect.kind == "model"]
    assert texts == ["its runtime changed since it was trained: run `trilane train stays` after applying"]
    deploy.apply(opened())
    assert opened().bundles()["ask"] == before
    with pytest.raises(ConflictError, match="kept for the runtime onnx, now it is python"):
        deploy.apply(opened(), [f"stays@{before.model_digest[:16]}"])


def test_a_promise_of_equal_bits_that_is_none_is_found_by_training(opened: Opener, folder: Path) -> None:
    _declare(folder, "tl.python(row_wise=True)", "    return rules.Rules(rows)")
    (folder / "rules.py").write_text(
        "class Rules:\n  def __init__(self, _): pass\n  def predict(self, m): return m.sum(1) + len(m)\n"
    )
    deploy.apply(opened())
    with pytest.raises(ModelError, match=r"row 0 scores .* alone and .* among") as caught:
        training_job.train(opened(), "stays")
    assert "row_wise" in caught.value.remedy


def test_one_that_answers_otherwise_when_it_is_opened_again_is_no_artifact_to_serve(
    opened: Opener, folder: Path
) -> None:
    _declare(folder, "'python'", "    return rules.Rules(rows)")
    (folder / "rules.py").write_text(
        "import os\nclass Rules:\n  def __init__(self, _): pass\n  def predict(self, m): return [float(os.getpid())]\n"
    )
    deploy.apply(opened())
    with pytest.raises(ModelError, match="golden row 0 scores"):
        training_job.train(opened(), "stays")


def test_strange_code_in_an_artifact_is_refused(opened: Opener, folder: Path) -> None:
    _declare(folder, "'python'", TRAIN["python"])
    deploy.apply(opened())
    artifact = training_job.train(opened(), "stays").artifact
    (artifact.path / "code" / "sklearn.py").write_text("raise SystemExit\n")
    with pytest.raises(ModelError, match="does not name this file"):
        load(artifact.path)


def test_what_is_declared_is_checked_and_only_told_where_it_is_not_as_ever(opened: Opener, folder: Path) -> None:
    assert "runtime" not in opened().working.models["stays"].spec()
    _declare(folder, "tl.python(memory_mib=64, timeout='2s')", TRAIN["python"])
    spec = opened().working.models["stays"].spec()
    assert spec["runtime"] == "python"
    assert msgspec.convert(spec["process"], OwnProcess) == OwnProcess(memory_mib=64, timeout=2_000_000)
    path = folder / "definitions.py"
    good = path.read_text()
    for wrong, reason in (("'torch'", "no runtime"), ("tl.python(threads=0)", "no process can live")):
        path.write_text(good.replace("tl.python(memory_mib=64, timeout='2s')", wrong))
        with pytest.raises(DefinitionError, match=reason):
            _ = opened().working


def test_a_model_in_a_process_of_its_own_is_no_rung_to_fall_back_on(opened: Opener, folder: Path) -> None:
    text = (folder / "definitions.py").read_text()
    other = 'other = tl.Model("other", features=[daily], spine=labels, label="stays", train=train, runtime="python")\n'
    text = text.replace("tl_endpoint =", f"{other}tl_endpoint =")
    (folder / "definitions.py").write_text(text.replace("[tl.constant(0.5)]", "[tl.smaller(other)]"))
    with pytest.raises(DefinitionError, match="a process of its own"):
        _ = opened().working
