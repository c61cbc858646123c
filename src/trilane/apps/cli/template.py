"""The files of a new project: card payments, some of them fraud, over the last ten days.

Law: the same instant gives the same files.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from trilane.clock import SECOND, format_instant

__all__ = ["files"]

_DAY = 86_400 * SECOND
_DAYS = 10
_PAYMENTS = 4_000
_CARDS = 60

_CONFIG = """\
# The operator's settings; every key has a default.
name = "{name}"
definitions = "definitions.py"
port = 8321
# workers = 2                       # server processes, one a core
# log = "sqlite://.trilane/log"     # where events are kept
# online = "lmdb://.trilane/online" # where features are served from
"""

_DEFINITIONS = '''\
"""Is this card payment fraud? One source, one view of each lane, a model and an endpoint."""

from __future__ import annotations

from typing import Any

import ibis
import trilane as tl


class Payment:
    """A card was charged."""

    payment_id: tl.String
    card: tl.String
    amount: tl.Float64
    paid_at: tl.Timestamp


class Verdict:
    """What a review found: the rows a model learns from."""

    card: tl.String
    amount: tl.Float64
    paid_at: tl.Timestamp
    fraud: tl.Bool | None


payments = tl.EventSource("payments", schema=Payment, event_time="paid_at", event_id="payment_id")
verdicts = tl.TableSource("verdicts", schema=Verdict, path="data/verdicts.csv", event_time="paid_at")
card = tl.Entity("card", card=tl.String)


@tl.batch(
    payments,
    card,
    features={"payments_7d": tl.count(window="7d"), "amount_mean_7d": tl.mean("amount", window="7d")},
)
def card_daily(payments: ibis.Table) -> ibis.Table:
    """What is usual for this card, computed each night."""
    return payments


@tl.nearline(
    payments,
    card,
    freshness="60s",
    features={
        "payments_60m": tl.count(window="60m"),
        "amount_60m": tl.sum("amount", window="60m", default=0.0),
    },
    fallback=[tl.stale(max_age="10m"), tl.default()],
)
def card_recent(payments: ibis.Table) -> ibis.Table:
    """What happened to this card just now, updated with each event."""
    return payments


@tl.request(
    inputs={"amount": tl.Float64},
    uses=[card_daily],
    features={"amount": tl.Float64, "times_usual": tl.Float64},
)
def payment(request: Any) -> dict[str, Any]:
    """How this payment compares, computed when it is asked."""
    return {"amount": request["amount"], "times_usual": request["amount"] / request["card_daily.amount_mean_7d"]}


def train(rows: Any) -> Any:
    """Gets the training set: `rows.matrix` and `rows.label`."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(rows.matrix, rows.label)


fraud = tl.Model("fraud", features=[card_daily, card_recent, payment], spine=verdicts, label="fraud", train=train)

check = tl.Endpoint("check", model=fraud, deadline="50ms", fallback=[tl.constant(0.05)], threshold=0.5)
'''

_README = """\
# {name}

Card payments, and whether they are fraud. `definitions.py` is all there is to it.

    pip install 'trilane[train]'                          # if it is not there: scikit-learn, and its export
    trilane plan                                          # what would be made
    trilane apply                                         # make it
    trilane ingest payments data/payments.ndjson --history
    trilane materialize all                               # last night's batch features
    trilane train fraud                                   # trained on what will be served
    trilane apply                                         # deploy the model
    trilane up                                            # run everything; then, in another terminal:

    curl localhost:8321/v1/events/payments -d \\
        '{{"payment_id": "new-1", "card": "card-7", "amount": 950.0, "paid_at": "'$(date -u +%FT%TZ)'"}}'
    curl localhost:8321/v1/decide/check -d '{{"card": "card-7", "amount": 950.0}}'
    trilane explain ID                                    # the id that the answer told
    trilane status

"""


def files(*, name: str, now: int) -> dict[str, str]:
    """The text of each file by its relative path, with data that ends just before instant `now`."""
    payments = list(_payments(now))
    return {
        "trilane.toml": _CONFIG.format(name=name.replace('"', "")),
        "definitions.py": _DEFINITIONS,
        "README.md": _README.format(name=name),
        ".gitignore": ".trilane/\n",
        "data/payments.ndjson": "".join(one.event() for one in payments),
        "data/verdicts.csv": "card,amount,paid_at,fraud\n" + "".join(one.verdict() for one in payments),
    }


@dataclass(frozen=True)
class _Payment:
    number: int
    card: str
    amount: float
    at: int
    fraud: bool

    def event(self) -> str:
        facts = {"payment_id": f"p{self.number}", "card": self.card, "amount": self.amount}
        return json.dumps({**facts, "paid_at": format_instant(self.at)}) + "\n"

    def verdict(self) -> str:
        return f"{self.card},{self.amount},{format_instant(self.at)},{str(self.fraud).lower()}\n"


def _payments(now: int) -> Iterator[_Payment]:
    """Usual payments, and bursts of unusual ones that a model can learn to tell from them."""
    chance = random.Random(7)
    usual = [chance.uniform(10, 120) for _ in range(_CARDS)]
    first = now // SECOND * SECOND - _DAYS * _DAY
    moments = sorted(first + chance.randrange(_DAYS * 86_400) * SECOND for _ in range(_PAYMENTS))
    burst: list[int] = []
    for number, at in enumerate(moments):
        if not burst and chance.random() < 0.02:
            burst = [chance.randrange(_CARDS)] * chance.randrange(3, 7)
        fraud = bool(burst)
        holder = burst.pop() if burst else chance.randrange(_CARDS)
        factor = chance.uniform(2.5, 9) if fraud else chance.lognormvariate(0, 0.4)
        yield _Payment(number, f"card-{holder}", round(usual[holder] * factor, 2), at, fraud)
