"""The laws of an online store, to be run against any adapter.

Each law takes `open`, which opens the same store, empty at first, as often as it is called:

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_our_store_keeps_the_law(law, tmp_path):
        law(lambda: open_store(f"ours://{tmp_path}"))

A broken law raises AssertionError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from trilane.errors import ContractError, DefinitionError, SetupError, TrilaneError
from trilane.stores.online.protocol import OnlineStore, Transaction

__all__ = ["LAWS", "Law", "Open"]

Open = Callable[[], OnlineStore]
Law = Callable[[Open], None]

_SPACE = "nearline/pressure@1"
_OTHER = "nearline/pressure@10"


@contextlib.contextmanager
def _changing(store: OnlineStore, region: str = "nearline") -> Iterator[Transaction]:
    with contextlib.closing(store.writer(region)) as writer, writer.transaction() as changes:
        yield changes


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def _expect_refusal(kind: type[TrilaneError], act: Callable[[], object], what: str) -> TrilaneError:
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"{what}: expected a {kind.__name__}")


def an_unwritten_region_is_empty_until_it_is_written(open: Open) -> None:
    with contextlib.closing(open()) as reader, contextlib.closing(open()) as store:
        _expect(reader.read([(_SPACE, [b"a", b"b"])]), [[None, None]], "read")
        _expect(list(reader.scan(_SPACE)), [], "scan")
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"a", b"1")])
        _expect(reader.read([(_SPACE, [b"a", b"b"])]), [[b"1", None]], "read by the same reader")


def answers_come_in_the_order_of_the_requests(open: Open) -> None:
    with contextlib.closing(open()) as store:
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"b", b"2"), (b"a", b"1"), (b"", b"empty key"), (b"e", b"")])
        with _changing(store, "batch") as changes:
            changes.put("batch/daily@1", [(b"a", b"day")])
        asked = [(_SPACE, [b"b", b"x", b"a", b"b"]), ("batch/daily@1", [b"a"]), (_SPACE, [b"", b"e"])]
        expected = [[b"2", None, b"1", b"2"], [b"day"], [b"empty key", b""]]
        _expect(store.read(asked), expected, "answers")
        _expect(store.read([]), [], "no requests")
        _expect(store.read([(_SPACE, [])]), [[]], "no keys")


def spaces_are_apart(open: Open) -> None:
    with contextlib.closing(open()) as store:
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"a", b"1"), (b"0a", b"2")])
            changes.put(_OTHER, [(b"a", b"3")])
        _expect(list(store.scan(_OTHER)), [(b"a", b"3")], "scan")
        with _changing(store) as changes:
            changes.drop(_OTHER)
            changes.drop("nearline/never_written")
        _expect(list(store.scan(_OTHER)), [], "scan after drop")
        _expect(list(store.scan(_SPACE)), [(b"0a", b"2"), (b"a", b"1")], "scan of the other")


def the_last_put_of_a_key_counts(open: Open) -> None:
    with contextlib.closing(open()) as store:
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"a", b"2"), (b"b", b"1"), (b"a", b"1")])
            changes.put(_SPACE, iter([(b"b", b"22")]))
        _expect(store.read([(_SPACE, [b"a", b"b"])]), [[b"1", b"22"]], "values")


def a_transaction_reads_what_it_wrote(open: Open) -> None:
    with contextlib.closing(open()) as store:
        with _changing(store) as changes:
            changes.put(_SPACE, [(bytes([n]), b"%d" % n) for n in range(0, 255, 5)])
        with _changing(store) as changes:
            changes.delete(_SPACE, [bytes([10]), b"not there"])
            changes.put(_SPACE, [(bytes([11]), b"new")])
            _expect(changes.get(_SPACE, [bytes([10]), bytes([11])]), [None, b"new"], "get")
            found = list(changes.scan(_SPACE, bytes([5]), bytes([20])))
            _expect(found, [(b"\x05", b"5"), (b"\x0b", b"new"), (b"\x0f", b"15")], "scan")
            _expect(len(list(changes.scan(_SPACE))), 51, "scan of all")
        _expect(len(list(store.scan(_SPACE))), 51, "scan after the commit")


def a_transaction_that_raises_changes_nothing(open: Open) -> None:
    with contextlib.closing(open()) as store:
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"a", b"1")])
        with contextlib.suppress(KeyError), _changing(store) as changes:
            changes.put(_SPACE, [(b"a", b"2"), (b"b", b"2")])
            changes.drop(_SPACE)
            raise KeyError
        _expect(list(store.scan(_SPACE)), [(b"a", b"1")], "rows")


def others_see_a_transaction_when_it_ends(open: Open) -> None:
    with contextlib.closing(open()) as reader, contextlib.closing(open()) as store:
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"a", b"1")])
            _expect(reader.read([(_SPACE, [b"a"])]), [[None]], "before the end")
        _expect(reader.read([(_SPACE, [b"a"])]), [[b"1"]], "after the end")


def a_scan_keeps_its_snapshot(open: Open) -> None:
    with contextlib.closing(open()) as reader, contextlib.closing(open()) as store:
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"a", b"1"), (b"b", b"1")])
        rows = reader.scan(_SPACE)
        _expect(next(rows), (b"a", b"1"), "first row")
        with _changing(store) as changes:
            changes.put(_SPACE, [(b"b", b"2"), (b"c", b"2")])
        _expect(list(rows), [(b"b", b"1")], "rows after a change")


def a_region_has_one_writer(open: Open) -> None:
    with contextlib.closing(open()) as store, contextlib.closing(open()) as other:
        with contextlib.closing(store.writer("nearline")):
            error = _expect_refusal(SetupError, lambda: other.writer("nearline"), "a second writer")
            _expect(bool(error.remedy), True, "the refusal has a remedy")
            other.writer("batch").close()
        other.writer("nearline").close()


def each_part_of_a_region_has_one_writer(open: Open) -> None:
    with contextlib.closing(open()) as store, contextlib.closing(open()) as other:
        first = store.writer("nearline", "orders/0", holder="ann")
        second = other.writer("nearline", "orders/1", holder="bob")
        error = _expect_refusal(SetupError, lambda: other.writer("nearline", "orders/0"), "a second writer")
        _expect("ann" in error.what and bool(error.remedy), True, "the refusal names the holder and a remedy")
        for writer, key in ((first, b"a"), (second, b"b")):
            with writer.transaction() as changes:
                changes.put(_SPACE, [(key, key)])
        _expect(list(store.scan(_SPACE)), [(b"a", b"a"), (b"b", b"b")], "rows of all parts")
        _expect(other.read([(_SPACE, [b"a", b"b"])]), [[b"a", b"b"]], "a read of all parts")
        names = {part: holder.name for part, holder in store.holders("nearline").items()}
        _expect(names, {"orders/0": "ann", "orders/1": "bob"}, "holders")
        first.close()
        _expect(list(other.holders("nearline")), ["orders/1"], "holders after one gave its part back")
        third = other.writer("nearline", "orders/0")
        with third.transaction() as changes:
            _expect(list(changes.scan(_SPACE)), [(b"a", b"a"), (b"b", b"b")], "what a successor finds")
            changes.delete(_SPACE, [b"a"])
        _expect(list(store.scan(_SPACE)), [(b"b", b"b")], "rows after a successor wrote")
        third.close()
        second.close()


def a_lease_is_held_by_one_until_it_is_given_back(open: Open) -> None:
    with contextlib.closing(open()) as store, contextlib.closing(open()) as other:
        _expect(store.holders("workers"), {}, "holders at first")
        with contextlib.closing(store.lease("workers", "a b/c", holder="ann")) as lease:
            _expect_refusal(SetupError, lambda: other.lease("workers", "a b/c"), "a second holder")
            with contextlib.closing(other.lease("workers", "d")):
                _expect(sorted(store.holders("workers")), ["a b/c", "d"], "holders")
            _expect(store.holders("others"), {}, "holders of another group")
            _expect(lease.lost, None, "what was lost")
        _expect(other.holders("workers"), {}, "holders in the end")
        other.lease("workers", "a b/c").close()


def regions_do_not_wait_for_each_other(open: Open) -> None:
    with contextlib.closing(open()) as store:
        with _changing(store, "batch") as loading, _changing(store) as changes:
            loading.put("batch/daily@1", [(b"a", b"1")])
            changes.put(_SPACE, [(b"a", b"1")])
        _expect(store.read([(_SPACE, [b"a"]), ("batch/daily@1", [b"a"])]), [[b"1"], [b"1"]], "values")


def a_writer_writes_its_own_region_only(open: Open) -> None:
    with contextlib.closing(open()) as store, _changing(store) as changes:
        _expect_refusal(DefinitionError, lambda: changes.put("batch/x", [(b"a", b"1")]), "another region")
        _expect_refusal(DefinitionError, lambda: changes.drop("nearline"), "a name without a slash")


def the_longest_key_fits_and_a_longer_one_is_refused(open: Open) -> None:
    with contextlib.closing(open()) as store:
        longest, too_long = b"k" * store.max_key_bytes, b"k" * (store.max_key_bytes + 1)
        with _changing(store) as changes:
            changes.put(_SPACE, [(longest, b"1")])

        def put_too_long() -> None:
            with _changing(store) as changes:
                changes.put(_SPACE, [(b"a", b"1"), (too_long, b"1")])

        error = _expect_refusal(ContractError, put_too_long, "a longer key")
        _expect(bool(error.remedy), True, "the refusal has a remedy")
        _expect(store.read([(_SPACE, [longest, too_long, b"a"])]), [[b"1", None, None]], "values")


def everything_is_there_after_reopening(open: Open) -> None:
    rows = [(b"%08d" % n, b"x" * (n % 300)) for n in range(20_000)]
    with contextlib.closing(open()) as store, _changing(store) as changes:
        changes.put(_SPACE, rows)
    with contextlib.closing(open()) as store:
        _expect(list(store.scan(_SPACE)) == rows, True, "all rows in order")


LAWS: tuple[Law, ...] = (
    a_lease_is_held_by_one_until_it_is_given_back,
    a_region_has_one_writer,
    a_scan_keeps_its_snapshot,
    a_transaction_reads_what_it_wrote,
    a_transaction_that_raises_changes_nothing,
    a_writer_writes_its_own_region_only,
    an_unwritten_region_is_empty_until_it_is_written,
    answers_come_in_the_order_of_the_requests,
    each_part_of_a_region_has_one_writer,
    everything_is_there_after_reopening,
    others_see_a_transaction_when_it_ends,
    regions_do_not_wait_for_each_other,
    spaces_are_apart,
    the_last_put_of_a_key_counts,
    the_longest_key_fits_and_a_longer_one_is_refused,
)
