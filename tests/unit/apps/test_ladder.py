"""An endpoint with a whole ladder, from its definition to a deployed bundle, and from an answer back to its bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import trained
from tests.shop import DEFINITIONS, T0, make_project
from trilane.apps import deploy
from trilane.apps.client.local import LocalClient
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import SimulatedClock
from trilane.errors import ModelError
from trilane.models.signature import Matrix, Scores, Signature

LADDER = """
small = tl.Model("small", features=[basket["basket"]], spine=asks, label="big", train=train)
rungs = [tl.cached(ttl="5m", by="inputs"), tl.smaller(small), tl.constant(0.25)]
tl_big = tl.Endpoint("is_big", model=big, deadline="5s", fallback=rungs)
"""


class Broken:
    """A runtime that fails."""

    signature = Signature.of(["x"])

    def predict(self, matrix: Matrix) -> Scores:
        raise ModelError(f"it takes no {len(matrix)} rows")

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def laddered(tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "shop"
    make_project(folder, apply=False).close()
    text = DEFINITIONS[: DEFINITIONS.index("tl_big =")] + LADDER
    (folder / "definitions.py").write_text(text)
    with Project(load_config(folder, environment={}), clock=SimulatedClock(T0 + 2 * 86_400_000_000)) as project:
        deploy.apply(project)
        yield project


def test_an_endpoint_is_deployed_once_the_smaller_model_is_trained_too_and_its_bundle_names_both(
    laddered: Project,
) -> None:
    folder = laddered.config.root
    trained(folder, "big")
    [effect] = [one for one in deploy.plan(laddered).effects if one.kind == "endpoint"]
    assert (effect.action, effect.text) == (deploy.WAIT, "answers once the model 'small' is trained and applied")
    assert laddered.bundles() == {}
    trained(folder, "small")
    [bundle] = laddered.bundles().values()
    artifact = laddered.registry.artifact("model", "small")
    assert artifact is not None
    assert bundle.fallback[1] == {"step": "smaller", "model": "small", "digest": artifact.digest}


def test_every_rung_answers_and_is_rebuilt_bit_for_bit_from_its_record(laddered: Project) -> None:
    trained(laddered.config.root, "big")
    trained(laddered.config.root, "small")
    with LocalClient(laddered) as client:
        [first] = client.decide("is_big", {"shop": "a", "basket": 10.0})
        assert first.rung == "stale"  # no lane has run; late features are kept for nobody
        engine = client._engine("is_big")
        engine.runtime = Broken()
        [smaller] = client.decide("is_big", {"shop": "a", "basket": 10.0})
        assert (smaller.rung, smaller.why[-1]) == ("smaller", "model: it takes no 1 rows")
        other = engine.ladder.smaller
        assert other is not None
        engine.ladder.smaller = None
        [constant] = client.decide("is_big", {"shop": "a", "basket": 11.0})
        assert (constant.rung, constant.score) == ("constant", 0.25)
        client._recorder.close() if client._recorder else None
        engine.ladder.smaller = other
        for decision in (smaller, constant):
            facts = client.explain(decision.id)
            assert (facts["rung"], facts["rebuilt"], facts["identical"]) == (decision.rung, decision.score, True)


def test_a_cached_score_is_rebuilt_by_the_decision_that_it_was_made_for(laddered: Project) -> None:
    text = (laddered.config.root / "definitions.py").read_text()
    text = text.replace('tl.cached(ttl="5m", by="inputs")', 'tl.cached(ttl="5m")')
    (laddered.config.root / "definitions.py").write_text(text)
    laddered.__dict__.pop("working", None)
    deploy.apply(laddered)
    trained(laddered.config.root, "big")
    trained(laddered.config.root, "small")
    with LocalClient(laddered) as client:
        [first] = client.decide("is_big", {"shop": "a", "basket": 10.0})
        client._engine("is_big").runtime = Broken()
        [second] = client.decide("is_big", {"shop": "a", "basket": 10.0})
        assert (second.rung, second.score) == ("cached", first.score)
        client._recorder.close() if client._recorder else None
        facts = client.explain(second.id)
        assert (facts["origin"], facts["rebuilt"], facts["identical"]) == (first.id, first.score, True)
