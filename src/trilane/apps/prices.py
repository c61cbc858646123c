"""What a view costs in each lane, from a price file: storage, writes, reads and processor time of a month.

Law: every figure is an upper bound at the declared load; what the file does not say is 0, or taken as its table says.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trilane.clock import duration
from trilane.errors import SetupError
from trilane.features.cost import bytes_per_row, cost_of
from trilane.features.tile import TileLayout
from trilane.features.view import View

__all__ = ["Load", "Prices", "cost_per_million", "load_prices"]

_MONTH = duration("30d")
_VERSIONS = 2  # of a batch view: the one that serves, and the one that lands


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices in one currency, and the microseconds of a processor that our lanes need.

    An event and a read (of a row of a view) are rounded up from what `bench_nearline` (1 us) and `bench_features`
    (3 us) measured on the reference machine; a batch event is an assumption, to be replaced by one's own measurement.
    """

    currency: str = "USD"
    storage_gb_month: float = 0.0
    cpu_second: float = 0.0
    read_million: float = 0.0
    write_million: float = 0.0
    reads_per_day: float = 0.0
    cpu_us_per_event: float = 2.0
    cpu_us_per_batch_event: float = 0.2
    cpu_us_per_read: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a view has to do: `keys` there are, `events_per_day` come, `reads_per_day` are asked."""

    keys: int
    events_per_day: float
    reads_per_day: float


def load_prices(path: Path) -> Prices:
    """The prices in a TOML file. Raises SetupError."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Prices, strict=False)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise SetupError(
            f"there are no readable prices: {error}",
            where=str(path),
            remedy=f"Write numbers for {', '.join(Prices.__struct_fields__)}",
        ) from error


def cost_per_million(view: View, schedule: int | None, load: Load, prices: Prices) -> float:
    """What a million reads of a view cost, nearline (`schedule` None) or by a load at each boundary of a schedule."""
    layout = TileLayout(view)
    events = load.events_per_day * 30
    reads = max(load.reads_per_day, 1e-9) * 30
    if schedule is None:
        stored, writes, cpu = float(cost_of(view).bytes_per_key), events, events * prices.cpu_us_per_event
    else:
        loads = _MONTH / schedule
        spans = [window.length for window in layout.windows if not window.is_lifetime]
        seen = load.events_per_day * max(spans, default=_MONTH) / duration("1d")
        stored = _VERSIONS * (
            bytes_per_row(layout) if layout.is_batch else len(layout.windows) * layout.record.itemsize
        )
        writes, cpu = loads * load.keys, loads * seen * prices.cpu_us_per_batch_event
    month = (
        load.keys * stored / 1e9 * prices.storage_gb_month
        + writes / 1e6 * prices.write_million
        + (cpu + reads * prices.cpu_us_per_read) / 1e6 * prices.cpu_second
        + reads / 1e6 * prices.read_million
    )
    return float(month / (reads / 1e6))
