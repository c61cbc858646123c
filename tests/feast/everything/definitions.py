"""One of each kind of object, as a Feast repository declares them."""

from datetime import timedelta
from typing import Any

import pandas as pd
from feast import (
    BatchFeatureView,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    RequestSource,
    SnowflakeSource,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

customer = Entity(
    name="customer", join_keys=["customer_id"], value_type=ValueType.STRING, description='Who "pays".', owner="crm"
)
shop = Entity(name="shop", value_type=ValueType.INT64)
lonely = Entity(name="lonely", value_type=ValueType.INT64)

purchases = FileSource(
    name="purchases",
    path="data/purchases.parquet",
    timestamp_field="at",
    created_timestamp_column="written",
    field_mapping={"amt": "amount"},
    description="Every purchase.",
    owner="till@example.org",
    tags={"team": "till"},
)
warehouse = SnowflakeSource(name="warehouse", table="VISITS", timestamp_field="AT")
stream = KafkaSource(
    name="purchase stream",
    kafka_bootstrap_servers="localhost:9092",
    topic="purchases",
    timestamp_field="at",
    batch_source=purchases,
    message_format=JsonFormat(schema_json="customer_id string, amount double, at timestamp"),
    watermark_delay_threshold=timedelta(minutes=5),
)

spending = FeatureView(
    name="spending",
    entities=[customer, shop],
    ttl=timedelta(hours=37),
    schema=[
        Field(name="amount", dtype=Float32, description="The last amount."),
        Field(name="items", dtype=Int32),
        Field(name="gift", dtype=Bool),
        Field(name="seen", dtype=UnixTimestamp),
        Field(name="card", dtype=String),
    ],
    source=purchases,
    owner="till@example.org",
    tags={"team": "till", "pii": "no"},
    description="What a customer last spent in a shop.",
)
forever = FeatureView(name="customer-profile", entities=[customer], ttl=None, source=purchases)
visits = FeatureView(
    name="visits",
    entities=[shop],
    ttl=timedelta(days=10),
    schema=[Field(name="visits", dtype=Int64), Field(name="where", dtype=Array(Float64)), Field(name="x", dtype=Bytes)],
    source=warehouse,
    online=False,
)
nowhere = FeatureView(name="nowhere", schema=[Field(name="amount", dtype=Float32)], source=purchases)
windows = StreamFeatureView(
    name="windows",
    entities=[customer],
    ttl=timedelta(days=1),
    schema=[Field(name="amount", dtype=Float64)],
    source=stream,
    timestamp_field="at",
    mode="spark",
    aggregations=[
        Aggregation(column="amount", function="sum", time_window=timedelta(hours=1), name="spent_1h"),
        Aggregation(column="amount", function="mean", time_window=timedelta(minutes=30)),
        Aggregation(column="card", function="count_distinct", time_window=timedelta(days=7)),
        Aggregation(column="amount", function="std", time_window=timedelta(hours=25)),
        Aggregation(column="amount", function="last_10", time_window=timedelta(hours=1)),
        Aggregation(column="card", function="sum", time_window=timedelta(hours=1)),
    ],
    enable_tiling=True,
)


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(amount=frame["amount"] * 2)


computed = BatchFeatureView(
    name="computed",
    entities=[customer],
    schema=[Field(name="amount", dtype=Float64)],
    source=purchases,
    mode="pandas",
    udf=doubled,
    udf_string="",
)

basket = RequestSource(name="basket", schema=[Field(name="total", dtype=Float64), Field(name="pieces", dtype=Int64)])


@on_demand_feature_view(
    sources=[basket, spending],
    schema=[Field(name="ratio", dtype=Float64), Field(name="many", dtype=Bool), Field(name="score", dtype=Float64)],
    mode="pandas",
)
def by_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
    """Compares a basket with the last purchase."""
    import numpy as np

    factor = 2.5
    df = pd.DataFrame()
    df["ratio"] = inputs["total"] / inputs["amount"].fillna(1.0)
    df["many"] = inputs["pieces"] > 3
    df["score"] = np.where(df["ratio"] > factor, np.log1p(inputs["total"]), inputs["total"].abs())
    return df


@on_demand_feature_view(
    sources=[basket], schema=[Field(name="root", dtype=Float64), Field(name="capped", dtype=Float64)], mode="python"
)
def by_lists(inputs: dict[str, Any]) -> dict[str, Any]:
    import math

    output: dict[str, Any] = {"root": [math.sqrt(total) + 2.5 for total in inputs["total"]]}
    output["capped"] = [
        min(total, 9.5) if pieces > 2 and total > 1 else 0.0
        for total, pieces in zip(inputs["total"], inputs["pieces"])
    ]
    return output


@on_demand_feature_view(
    sources=[basket, spending], schema=[Field(name="left", dtype=Float64)], mode="python", singleton=True
)
def by_row(inputs: dict[str, Any]) -> dict[str, Any]:
    left = inputs["total"] - inputs["spending__amount"]
    return {"left": max(left, 0.0)}


@on_demand_feature_view(sources=[basket], schema=[Field(name="rank", dtype=Float64)], mode="pandas")
def over_rows(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["rank"] = inputs["total"].rank()
    return df


everything = FeatureService(
    name="everything",
    features=[spending[["amount", "card"]], forever, windows, computed, by_pandas, by_row],
    description="All there is.",
)
renamed = FeatureService(
    name="spending",
    features=[spending.with_name("past"), visits.with_join_key_map({"shop": "branch"}), "spending:items"],
)
