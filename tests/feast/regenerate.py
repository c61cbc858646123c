"""Makes the repositories, facts and answers of this folder anew; run by a Python that has Feast (see README.md)."""

import datetime as dt
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from feast import FeatureStore

HERE = Path(__file__).resolve().parent
READER = HERE.parents[1] / "src" / "trilane" / "apps" / "feast_import" / "reader.py"
FEAST = Path(sys.executable).with_name("feast")
TEMPLATES = ("local", "pytorch_nlp", "rag", "spark")
DAY = dt.timedelta(days=1)
TICK = dt.timedelta(microseconds=1)
REQUEST = {"val_to_add": 1000, "val_to_add_2": 2000, "total": 12.25, "pieces": 4}

ASKED = {
    "local": {
        "keys": [{"driver_id": driver} for driver in (1001, 1002, 1003, 1004, 1005, 9)],
        "features": [
            "driver_hourly_stats:conv_rate",
            "driver_hourly_stats:acc_rate",
            "driver_hourly_stats:avg_daily_trips",
            "transformed_conv_rate:conv_rate_plus_val1",
            "transformed_conv_rate:conv_rate_plus_val2",
        ],
        "file": "driver_stats.parquet",
        "time": "event_timestamp",
    },
    "everything": {
        "keys": [{"customer_id": c, "shop": s} for c in ("ann", "bob", "eve", "nobody") for s in (1, 2)],
        "features": [
            "spending:amount",
            "spending:items",
            "spending:gift",
            "by_pandas:ratio",
            "by_pandas:many",
            "by_pandas:score",
            "by_lists:root",
            "by_lists:capped",
        ],
        "file": "purchases.parquet",
        "time": "at",
    },
}


def main() -> None:
    for template in TEMPLATES:
        make(template)
    write_purchases(HERE / "everything" / "data" / "purchases.parquet")
    for name in (*TEMPLATES, "everything"):
        told = subprocess.run([sys.executable, READER, HERE / name], check=True, capture_output=True, text=True)
        (HERE / name / "facts.json").write_text(json.dumps(json.loads(told.stdout), indent=1) + "\n")
    for name, asked in ASKED.items():
        answers = ask(name, **asked)
        (HERE / name / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")


def make(template: str) -> None:
    """Of what `feast init` makes, the repository itself."""
    target = HERE / template
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([FEAST, "init", "-t", template, template], cwd=folder, check=True, capture_output=True)
        kept = shutil.ignore_patterns("__pycache__", "__init__.py", "static_artifacts.py", "test_workflow.py")
        shutil.copytree(Path(folder) / template / "feature_repo", target, ignore=kept)


def write_purchases(path: Path) -> None:
    """A month of purchases without nulls, for Feast and Trilane read those differently."""
    path.parent.mkdir(exist_ok=True)
    chance = random.Random(7)
    start = dt.datetime(2026, 3, 1, tzinfo=dt.timezone.utc)
    at = sorted(start + dt.timedelta(seconds=chance.randrange(30 * 86_400)) for _ in range(400))
    frame = pd.DataFrame(
        {
            "customer_id": [chance.choice(["ann", "bob", "eve"]) for _ in at],
            "shop": [chance.choice([1, 2]) for _ in at],
            "amt": pd.Series([round(chance.uniform(1, 99), 2) for _ in at], dtype="float32"),
            "items": pd.Series([chance.randrange(1, 9) for _ in at], dtype="int32"),
            "gift": [chance.random() < 0.3 for _ in at],
            "seen": [one - dt.timedelta(minutes=3) for one in at],
            "card": [chance.choice(["visa", "giro"]) for _ in at],
            "at": at,
            "written": [one + dt.timedelta(minutes=1) for one in at],
        }
    )
    frame.to_parquet(path)


def ask(name: str, keys: list, features: list, file: str, time: str) -> list:
    """Feast's answers one microsecond before some boundaries: of training, and of serving."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / name
        shutil.copytree(HERE / name, repository)
        sys.path.insert(0, str(repository))
        store = FeatureStore(repository)
        store.apply(declared(repository))
        times = pd.read_parquet(repository / "data" / file)[time]
        last = times.max().floor("D").to_pydatetime()
        boundaries = [last - n * DAY for n in (12, 9, 4, 1, 0)] + [last + DAY]
        answers = []
        for boundary in boundaries:
            rows = pd.DataFrame([{**key, **REQUEST, "event_timestamp": boundary - TICK} for key in keys])
            past = store.get_historical_features(rows, features).to_df()
            for key in keys:
                # Feast drops a row whose values are all older than the ttl.
                there = [row for row in past.to_dict("records") if all(row[k] == v for k, v in key.items())]
                answers += [fact(boundary, key, row, features, "historical") for row in there]
        store.materialize(times.min().to_pydatetime() - DAY, last - TICK)
        served = store.get_online_features(features, [{**key, **REQUEST} for key in keys]).to_dict()
        for number, key in enumerate(keys):
            row = {column: values[number] for column, values in served.items()}
            answers.append(fact(last, key, row, features, "online"))
    return answers


def declared(repository: Path) -> list:
    """What Feast can apply without a network."""
    if repository.name == "local":
        import feature_definitions as found

        return [found.driver, found.driver_stats_fv, found.input_request, found.transformed_conv_rate]
    import definitions as found

    views = [found.spending, found.by_pandas, found.by_lists]
    return [found.customer, found.shop, found.purchases, found.basket, *views]


def fact(boundary: dt.datetime, key: dict, row: dict, features: list, how: str) -> dict:
    values = {name.replace(":", "."): plain(row[name.partition(":")[2]]) for name in features}
    return {"boundary": boundary.isoformat(), "how": how, "keys": key, "request": REQUEST, "values": values}


def plain(value: object) -> float | None:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return float(value)


if __name__ == "__main__":
    main()
