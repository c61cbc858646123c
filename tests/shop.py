"""A small project that tests of the whole path share: orders in a shop, features on three lanes, one model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import SECOND, Clock, format_instant, instant

__all__ = ["DEFINITIONS", "MINUTE", "T0", "append", "event", "make_project", "write_asks"]

T0 = instant("2026-03-02T00:00:00Z")
MINUTE = 60 * SECOND

DEFINITIONS = """
import numpy as np
import trilane as tl


class Order:
    order_id: tl.String
    shop: tl.String
    at: tl.Timestamp
    amount: tl.Float64 | None


class Ask:
    shop: tl.String
    asked_at: tl.Timestamp
    basket: tl.Float64
    big: tl.Bool | None


orders = tl.EventSource("orders", schema=Order, event_time="at", event_id="order_id", disorder="10m")
asks = tl.TableSource("asks", schema=Ask, path="asks.parquet", event_time="asked_at")
shop = tl.Entity("shop", shop=tl.String)


@tl.batch(orders, shop, features={"mean_7d": tl.mean("amount", window="7d"), "n_7d": tl.count(window="7d")})
def shop_daily(orders):
    return orders


@tl.nearline(
    orders,
    shop,
    freshness="60s",
    features={
        "n_10m": tl.count(window="10m"),
        "sum_1h": tl.sum("amount", window="1h"),
        "mean_1h": tl.mean("amount", window="1h", default=0.0),
        "std_1h": tl.stddev("amount", window="1h"),
        "max_10m": tl.max("amount", window="10m"),
        "last_1h": tl.last("amount", window="1h"),
    },
    fallback=[
        tl.stale(max_age="10m"),
        tl.last(shop_daily, max_age="36h", features={"mean_1h": "mean_7d"}),
        tl.default(),
    ],
)
def shop_now(orders):
    return orders.filter(orders.amount.isnull() | (orders.amount >= 0))


@tl.request(
    inputs={"basket": tl.Float64},
    uses=[shop_now],
    features={"basket": tl.Float64, "over_mean": tl.Float64},
)
def basket(request):
    if (request["basket"] == -1).any():
        raise ZeroDivisionError("a basket of minus one")
    return {"basket": request["basket"], "over_mean": request["basket"] - request["shop_now.mean_1h"]}


def train(training_set):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.impute import SimpleImputer

    imputer = SimpleImputer(strategy="constant", fill_value=-1.0, keep_empty_features=True)
    model = make_pipeline(imputer, LogisticRegression(max_iter=500))
    return model.fit(training_set.matrix, training_set.label)


big = tl.Model("big", features=[shop_now, shop_daily, basket], spine=asks, label="big", train=train)
tl_big = tl.Endpoint("is_big", model=big, deadline="5s", fallback=[tl.constant(0.25)], threshold=0.5)
"""


def make_project(
    folder: Path, *, clock: Clock | None = None, replay: bool = False, apply: bool = True, **urls: str
) -> Project:
    """A project in `folder`, its definitions applied; `urls`: of its stores, such as `online`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"replay = {str(replay).lower()}", *(f'{name} = "{url}"' for name, url in urls.items())]
    (folder / "trilane.toml").write_text("\n".join(lines) + "\n")
    (folder / "definitions.py").write_text(DEFINITIONS)
    write_asks(folder / "asks.parquet")
    project = Project(load_config(folder, environment={}), clock=clock)
    if apply:
        deploy.apply(project)
    return project


def event(number: int, *, shop: str = "a", at: int, amount: float | None = 1.0) -> bytes:
    """An order as JSON."""
    return json.dumps({"order_id": f"o{number}", "shop": shop, "at": format_instant(at), "amount": amount}).encode()


def write_asks(path: Path, *, rows: int = 200, shops: Sequence[str] = ("a", "b", "c"), seed: int = 1) -> None:
    """A spine of asks over the first two days after T0."""
    random = np.random.default_rng(seed)
    baskets = random.uniform(0, 100, rows).round(2)
    asked = T0 + np.sort(random.integers(0, 2 * 86_400, rows)) * SECOND
    table = pa.table(
        {
            "shop": random.choice(list(shops), rows),
            "asked_at": pa.array(asked, pa.timestamp("us", "UTC")),
            "basket": baskets,
            "big": baskets > 50,
        }
    )
    pq.write_table(table, path)


def append(project: Project, events: Iterable[bytes], *, arrived_at: int) -> None:
    """Puts events into the project's log."""
    project.log.append("orders", 0, list(events), arrived_at)
