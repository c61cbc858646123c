"""What this project knows about flights: sources, features on three lanes, two models, and the question it answers.

Half an hour before each scheduled departure from New York: will the flight arrive more than 15 minutes late?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import ibis
import msgspec
import numpy as np

import trilane as tl

# ---- Sources: facts, each with the instant at which it happened --------------------------------------------------

Delay = Annotated[tl.Float64, msgspec.Meta(ge=-180, le=2880)]  # minutes; below zero is early
MilesPerHour = Annotated[tl.Float64, msgspec.Meta(ge=0, le=250)]


class Departure:
    """A plane left the gate in New York."""

    flight_id: tl.String
    origin: tl.String
    dest: tl.String
    carrier: tl.String
    tailnum: tl.String
    scheduled_at: tl.Timestamp
    departed_at: tl.Timestamp
    dep_delay: Delay


class Arrival:
    """A flight from New York reached the gate of its destination."""

    flight_id: tl.String
    origin: tl.String
    dest: tl.String
    carrier: tl.String
    tailnum: tl.String
    arrived_at: tl.Timestamp
    dep_delay: Delay
    arr_delay: Delay
    air_time: tl.Float64


class Weather:
    """One hour's weather at an airport, known when the hour was over."""

    observation_id: tl.String
    origin: tl.String
    published_at: tl.Timestamp
    temp: tl.Float64 | None
    humid: tl.Float64 | None
    wind_speed: MilesPerHour | None
    wind_gust: MilesPerHour | None
    precip: tl.Float64
    pressure: tl.Float64 | None
    visib: tl.Float64


class Ask:
    """A question: will this flight be late? `late` is the answer that time told; null if it was cancelled."""

    flight_id: tl.String
    asked_at: tl.Timestamp
    scheduled_at: tl.Timestamp
    origin: tl.String
    dest: tl.String
    carrier: tl.String
    tailnum: tl.String | None
    distance: tl.Float64
    late: tl.Bool | None


departures = tl.EventSource("departures", schema=Departure, event_time="departed_at", event_id="flight_id")
arrivals = tl.EventSource("arrivals", schema=Arrival, event_time="arrived_at", event_id="flight_id")
weather = tl.EventSource("weather", schema=Weather, event_time="published_at", event_id="observation_id")
asks = tl.TableSource("asks", schema=Ask, path="data/asks.parquet", event_time="asked_at")

# ---- Entities: what features are about ---------------------------------------------------------------------------

airport = tl.Entity("airport", origin=tl.String)
destination = tl.Entity("destination", dest=tl.String)
route = tl.Entity("route", origin=tl.String, dest=tl.String)
carrier = tl.Entity("carrier", carrier=tl.String)
plane = tl.Entity("plane", tailnum=tl.String | None)  # a cancelled flight often has none

# ---- The batch lane: each night, history ---------------------------------------------------------------------------


@tl.batch(
    arrivals,
    carrier,
    features={
        "arr_delay_7d": tl.mean("arr_delay", window="7d"),
        "arr_delay_28d": tl.mean("arr_delay", window="28d"),
        "late_share_7d": tl.mean("late", window="7d"),
        "late_share_28d": tl.mean("late", window="28d"),
    },
)
def carrier_daily(arrivals: ibis.Table) -> ibis.Table:
    return arrivals.mutate(late=(arrivals.arr_delay > 15).cast("int64"))


@tl.batch(
    arrivals,
    route,
    features={
        "flights_28d": tl.count(window="28d"),
        "arr_delay_7d": tl.mean("arr_delay", window="7d"),
        "arr_delay_28d": tl.mean("arr_delay", window="28d"),
        "late_share_28d": tl.mean("late", window="28d"),
    },
)
def route_daily(arrivals: ibis.Table) -> ibis.Table:
    return arrivals.mutate(late=(arrivals.arr_delay > 15).cast("int64"))


@tl.batch(
    arrivals,
    airport,
    features={
        "flights_7d": tl.count(window="7d"),
        "dep_delay_7d": tl.mean("dep_delay", window="7d"),
        "dep_delay_28d": tl.mean("dep_delay", window="28d"),
        "dep_delay_stddev_7d": tl.stddev("dep_delay", window="7d"),
        "dep_late_share_7d": tl.mean("dep_late", window="7d"),
        "arr_delay_7d": tl.mean("arr_delay", window="7d"),
        "lost_in_air_7d": tl.mean("lost_in_air", window="7d"),
    },
)
def airport_daily(arrivals: ibis.Table) -> ibis.Table:
    return arrivals.mutate(
        dep_late=(arrivals.dep_delay > 15).cast("int64"),
        lost_in_air=arrivals.arr_delay - arrivals.dep_delay,
    )


# ---- The nearline lane: each event, as it comes --------------------------------------------------------------------


@tl.nearline(
    departures,
    airport,
    freshness="60s",
    features={
        "departures_30m": tl.count(window="30m"),
        "departures_60m": tl.count(window="60m"),
        "delay_mean_30m": tl.mean("dep_delay", window="30m"),
        "delay_mean_60m": tl.mean("dep_delay", window="60m"),
        "delay_max_60m": tl.max("dep_delay", window="60m"),
        "delay_stddev_60m": tl.stddev("dep_delay", window="60m"),
        "late_share_60m": tl.mean("late", window="60m"),
    },
    fallback=[
        tl.stale(max_age="10m"),
        tl.last(
            airport_daily,
            max_age="36h",
            features={
                "delay_mean_30m": "dep_delay_7d",
                "delay_mean_60m": "dep_delay_7d",
                "delay_stddev_60m": "dep_delay_stddev_7d",
                "late_share_60m": "dep_late_share_7d",
            },
        ),
        tl.default(),
    ],
)
def airport_pressure(departures: ibis.Table) -> ibis.Table:
    """How hard it is to leave the airport."""
    return departures.mutate(late=(departures.dep_delay > 15).cast("int64"))


@tl.nearline(
    arrivals,
    airport,
    freshness="60s",
    features={
        "arr_delay_mean_60m": tl.mean("arr_delay", window="60m"),
        "lost_in_air_mean_60m": tl.mean("lost_in_air", window="60m"),
    },
    fallback=[
        tl.stale(max_age="10m"),
        tl.last(
            airport_daily,
            max_age="36h",
            features={"arr_delay_mean_60m": "arr_delay_7d", "lost_in_air_mean_60m": "lost_in_air_7d"},
        ),
        tl.default(),
    ],
)
def airport_arrivals(arrivals: ibis.Table) -> ibis.Table:
    """How flights that left the airport have fared."""
    return arrivals.mutate(lost_in_air=arrivals.arr_delay - arrivals.dep_delay)


@tl.nearline(
    arrivals,
    destination,
    freshness="60s",
    features={
        "arr_delay_mean_3h": tl.mean("arr_delay", window="3h"),
        "lost_in_air_mean_3h": tl.mean("lost_in_air", window="3h"),
    },
    fallback=[
        tl.stale(max_age="30m"),
        tl.prior(route_daily, max_age="36h", features={"arr_delay_mean_3h": "arr_delay_28d"}),
        tl.default(),
    ],
)
def destination_arrivals(arrivals: ibis.Table) -> ibis.Table:
    """How hard it is to land at the destination."""
    return arrivals.mutate(lost_in_air=arrivals.arr_delay - arrivals.dep_delay)


@tl.nearline(
    arrivals,
    plane,
    freshness="5m",
    features={
        "arrived_at": tl.last("arrived_at", window="24h"),
        "arr_delay": tl.last("arr_delay", window="24h"),
        "dep_delay": tl.last("dep_delay", window="24h"),
        "air_time": tl.last("air_time", window="24h"),
    },
    fallback=[tl.stale(max_age="2h"), tl.default()],
)
def plane_last_leg(arrivals: ibis.Table) -> ibis.Table:
    """The plane's last flight out of New York that has arrived."""
    return arrivals


@tl.nearline(
    weather,
    airport,
    freshness="5m",
    features={
        "temp": tl.last("temp", window="6h"),
        "humid": tl.last("humid", window="6h"),
        "wind": tl.last("wind", window="6h"),
        "pressure": tl.last("pressure", window="6h"),
        "precip_3h": tl.sum("precip", window="3h"),
        "visib_min_3h": tl.min("visib", window="3h"),
    },
    fallback=[tl.stale(max_age="3h"), tl.default()],
)
def latest_weather(weather: ibis.Table) -> ibis.Table:
    return weather.mutate(wind=ibis.coalesce(weather.wind_gust, weather.wind_speed))


# ---- The request lane: from what the caller sends --------------------------------------------------------------------


def _clock_changes(month: int, sunday: int, utc_hour: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    januaries = np.arange("2007", "2038", dtype="datetime64[Y]").astype("datetime64[M]")
    first_days = (januaries + np.timedelta64(month - 1, "M")).astype("datetime64[D]")
    days = np.busday_offset(first_days, sunday - 1, roll="forward", weekmask="Sun")
    return (days + np.timedelta64(utc_hour, "h")).astype("datetime64[us]").astype(np.int64)


# New York is 4 hours behind UTC from the second Sunday of March to the first of November, else 5.
CLOCK_CHANGES = np.sort(np.concatenate([_clock_changes(3, 2, 7), _clock_changes(11, 1, 6)]))


@tl.request(
    inputs={"scheduled_at": tl.Timestamp, "distance": tl.Float64},
    features={"hour": tl.Float64, "weekday": tl.Int64, "distance": tl.Float64},
)
def flight_context(request: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduled departure on New York's clocks: hour of the day, and day of the week from Monday as 0."""
    scheduled = request["scheduled_at"]
    behind = 5 - np.searchsorted(CLOCK_CHANGES, scheduled, side="right") % 2
    local = scheduled // 1_000_000 - behind * 3600
    return {
        "hour": local % 86_400 / 3600,
        "weekday": (local // 86_400 + 3) % 7,
        "distance": request["distance"],
    }


@tl.request(
    inputs={"scheduled_at": tl.Timestamp},
    uses=[plane_last_leg],
    features={"since_arrival": tl.Float64, "spare": tl.Float64},
)
def plane_rotation(request: Mapping[str, Any]) -> dict[str, Any]:
    """Minutes from the plane's last arrival elsewhere to this departure, and what a flight back would leave of them."""
    since_arrival = (request["scheduled_at"] - request["plane_last_leg.arrived_at"]) / 60e6
    return {"since_arrival": since_arrival, "spare": since_arrival - request["plane_last_leg.air_time"]}


# ---- Models and the endpoint -----------------------------------------------------------------------------------------


def train(rows: Any) -> Any:
    """Boosted trees; the same rows give the same trees."""
    from lightgbm import LGBMClassifier

    model = LGBMClassifier(
        n_estimators=200,
        learning_rate=0.05,
        num_leaves=31,
        min_child_samples=500,
        colsample_bytree=0.6,
        reg_lambda=10.0,
        random_state=13,
        n_jobs=2,
        deterministic=True,
        force_row_wise=True,
        verbose=-1,
    )
    return model.fit(rows.matrix, rows.label)


# The rest of airport_daily stands in where events are missing; models that learn from all of it are no better.
late_arrival = tl.Model(
    "late_arrival",
    features=[
        carrier_daily,
        route_daily,
        airport_daily["flights_7d"],
        airport_daily["dep_delay_7d"],
        airport_daily["dep_delay_28d"],
        airport_pressure,
        airport_arrivals,
        destination_arrivals,
        plane_last_leg["arr_delay"],
        plane_last_leg["dep_delay"],
        plane_last_leg["air_time"],
        latest_weather,
        flight_context,
        plane_rotation,
    ],
    spine=asks,
    label="late",
    train=train,
)

# What the events are worth: the same model without the nearline lane.
late_arrival_baseline = tl.Model(
    "late_arrival_baseline",
    features=[
        carrier_daily,
        route_daily,
        airport_daily["flights_7d"],
        airport_daily["dep_delay_7d"],
        airport_daily["dep_delay_28d"],
        flight_context,
    ],
    spine=asks,
    label="late",
    train=train,
)

flight_delay = tl.Endpoint(
    "flight_delay",
    model=late_arrival,
    deadline="50ms",
    fallback=[tl.constant(0.23)],  # the share of late flights
    threshold=0.5,
)
