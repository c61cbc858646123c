"""What a row cache answers is what decoding anew would answer, whatever it keeps."""

from __future__ import annotations

import numpy as np

from tests.shop import MINUTE, T0, event
from tests.unit.serving.conftest import Shop, same_bits
from trilane.features.plan import FeaturePlan
from trilane.serving.reading import Asked, FeatureReader
from trilane.stores.online.versions import SPACE

DAY = 86_400_000_000


def _readers(shop: Shop) -> list[FeatureReader]:
    plan = shop.definitions.models["big"].plan
    return [FeatureReader(plan, shop.store, cache=capacity) for capacity in (0, 1, 600, 32 << 20)]


def test_every_capacity_answers_alike_while_rows_come_and_change(shop: Shop) -> None:
    readers = _readers(shop)
    shop.deliver(*(event(n, shop="abc"[n % 3], at=T0 - DAY - n, amount=n) for n in range(9)))
    shop.land(T0 - DAY)
    number = 100
    for step in range(6):
        now = T0 + step * MINUTE
        shop.clock.move_to(now)
        shop.deliver(event(number + step, shop="ab"[step % 2], at=now - 1, amount=step))
        shop.run_nearline()
        if step == 3:
            shop.land(T0)
        for asked in ("abz", "ca", "a", "zzab", "abcz"):
            first, *others = [reader.read(shop.rows(*asked), now) for reader in readers]
            for other in others:
                assert same_bits(first.values, other.values)
                assert np.array_equal(first.statuses, other.statuses)
                assert np.array_equal(first.ages, other.ages)


def test_without_capacity_every_row_is_read_and_with_it_landed_rows_are_read_once(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - DAY - 1))
    shop.land(T0 - DAY)
    counts: list[int] = []

    class Counting:
        """The store, telling how many keys it is asked for."""

        atomic, max_key_bytes = shop.store.atomic, shop.store.max_key_bytes
        scan, writer, close = shop.store.scan, shop.store.writer, shop.store.close
        lease, holders = shop.store.lease, shop.store.holders

        def read(self, requests, *, within=0.0):  # type: ignore[no-untyped-def]
            counts.append(sum(len(keys) for space, keys in requests if space.startswith("batch/") and space != SPACE))
            return shop.store.read(requests)

    plan = FeaturePlan.of([shop.view("shop_daily")], where="test")
    for capacity, expected in ((0, 2), (1 << 20, 0)):
        reader = FeatureReader(plan, Counting(), cache=capacity)
        reader.read(shop.rows("a", "b"), T0)
        before = counts[-1]
        reader.read(shop.rows("a", "b"), T0)
        assert (before, counts[-1]) == (2, expected)


def test_columns_are_read_as_rows_are(shop: Shop) -> None:
    shop.deliver(*(event(n, shop="aü"[n % 2], at=T0 - DAY - n, amount=n) for n in range(9)))
    shop.land(T0 - DAY)
    shop.run_nearline()
    reader = _readers(shop)[0]
    for asked in (["a"], ["ü", "a", "ü"], ["", "nobody"]):
        columns = Asked({"shop": asked, "basket": [10.0] * len(asked)}, len(asked))
        by_rows, by_columns = (reader.read(rows, T0) for rows in (shop.rows(*asked), columns))
        assert same_bits(by_rows.values, by_columns.values)
        assert np.array_equal(by_rows.statuses, by_columns.statuses)
        assert by_rows.faults == by_columns.faults
