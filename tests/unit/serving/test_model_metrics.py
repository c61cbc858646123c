"""What models did is told since the last time, by names that only the folder makes, and by a number of them at most."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from trilane.errors import ContractError, ModelError, UnavailableError
from trilane.serving.entries import Slot
from trilane.serving.model_metrics import MOST, OTHERS, ModelMetrics
from trilane.serving.share import Account, Share
from trilane.serving.tally import Tally


def _slot(name: str) -> Slot:
    return Slot(name, "1", Tally(name, "1", now=lambda: 0))


def test_each_question_counts_once_by_what_became_of_it() -> None:
    own, slot = CollectorRegistry(), _slot("risk")
    metrics = ModelMetrics(own)
    account = Account(3, 2, 1.0, 0.5, 0.5, "idle")
    slot.tally.succeeded(Share(None, 0, 1, account, 0.75), 0.8)
    slot.tally.succeeded(Share(None, 1, 3, account, 0.5), 1.0)
    for error in (ContractError("no", where="x"), UnavailableError("full"), ModelError("broken")):
        slot.failed(error, 0.1)
    slot.could_not_load("mark", 0.0)
    slot.loads = 1
    for _ in range(2):  # told twice, counted once
        metrics.tell([slot])

    def value(name: str, **labels: str) -> float | None:
        return own.get_sample_value(name, {"model": "risk", **labels})

    found = [value("trilane_model_questions_total", result=one) for one in ("answered", "invalid", "refused", "failed")]
    assert found == [2, 1, 1, 1]
    assert [value("trilane_model_loads_total", result=one) for one in ("loaded", "failed")] == [1, 1]
    assert [value("trilane_model_rows_total"), value("trilane_model_batches_total")] == [3, 1]
    assert [value("trilane_model_seconds_total", stage=one) for one in ("queue", "compute")] == [0.75, 1.0]
    slot.loads = 2
    metrics.tell([slot])
    assert value("trilane_model_loads_total", result="loaded") == 2


def test_of_many_models_some_are_told_at_a_time() -> None:
    own = CollectorRegistry()
    metrics, slots = ModelMetrics(own), [_slot(f"m{number}") for number in range(60)]
    for slot in slots:
        slot.loads = 1

    def told() -> int:
        found = [{"model": slot.name, "result": "loaded"} for slot in slots]
        return sum(own.get_sample_value("trilane_model_loads_total", labels) == 1 for labels in found)

    numbers = [told() for _ in metrics.telling(slots)]
    assert numbers == sorted({*numbers})
    assert 0 < numbers[0] <= numbers[-1] < told() == 60
    begun = metrics.telling(slots)
    slots[0].loads = slots[59].loads = 2
    next(begun)
    metrics.tell(slots)  # a scrape comes between
    assert list(begun)
    for name in ("m0", "m59"):
        assert own.get_sample_value("trilane_model_loads_total", {"model": name, "result": "loaded"}) == 2


def test_more_models_than_have_labels_are_told_together() -> None:
    own = CollectorRegistry()
    metrics, slots = ModelMetrics(own), [_slot(f"m{number}") for number in range(MOST + 3)]
    for slot in slots:
        slot.loads = 2
    metrics.tell(slots)
    assert own.get_sample_value("trilane_model_loads_total", {"model": "m0", "result": "loaded"}) == 2
    assert own.get_sample_value("trilane_model_loads_total", {"model": OTHERS, "result": "loaded"}) == 6
