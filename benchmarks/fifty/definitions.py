"""Fifty features of a customer in three views: as a table's last values, and as windows over events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trilane as tl

PARTS = {"v0": 17, "v1": 17, "v2": 16}
COLUMNS = {f"{view}_f{i:02}": tl.Float64 for view, number in PARTS.items() for i in range(number)}
OPERATIONS: tuple[Callable[..., Any], ...] = (tl.sum, tl.mean, tl.max, tl.last)


class Payment:
    """One payment of a customer."""

    payment_id: tl.String
    customer_id: tl.Int64
    paid_at: tl.Timestamp
    amount: tl.Float64


rows = {"customer_id": tl.Int64, "known_at": tl.Timestamp, **COLUMNS}
customers = tl.TableSource("customers", schema=rows, path="customers.parquet", event_time="known_at")
payments = tl.EventSource("payments", schema=Payment, event_time="paid_at", event_id="payment_id", disorder="10m")
customer = tl.Entity("customer", customer_id=tl.Int64)


def _same(name: str) -> Callable[[Any], Any]:
    def same(rows: Any) -> Any:
        return rows

    same.__name__ = name
    return same


def _landed(view: str) -> Any:
    own = {name: tl.last(name, window="lifetime") for name in COLUMNS if name.startswith(view)}
    return tl.batch(customers, customer, landing="1s", features=own)(_same(view))


def _windowed(view: str, number: int) -> Any:
    windows = ("10m", "30m", "60m", "3h", "6h")
    own = {
        f"f{i:02}": OPERATIONS[i % 4]("amount", window=windows[i // 4]) if i < 16 else tl.count(window="60m")
        for i in range(number)
    }
    return tl.nearline(payments, customer, freshness="60s", features=own)(_same(view))


v0, v1, v2 = (_landed(view) for view in PARTS)
w0, w1, w2 = (_windowed(view.replace("v", "w"), number) for view, number in PARTS.items())
