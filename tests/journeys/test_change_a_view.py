"""A view that is in use is changed while all runs: built beside, compared, swapped in, and returned from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import free_port, until


class Shop:
    """The project that `init` makes, with its processes running."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def run(self, *words: str, status: int = 0) -> Any:
        line = [sys.executable, "-m", "trilane", *words, "--json"]
        environment = {**os.environ, "TRILANE_PORT": str(self.port)}
        done = subprocess.run(
            line, cwd=self.folder, capture_output=True, text=True, check=False, env=environment, timeout=100
        )
        assert done.returncode == status, done.stdout + done.stderr
        lines = [json.loads(text) for text in done.stdout.splitlines()]
        return lines[0] if len(lines) == 1 else lines

    def edit(self, old: str, new: str) -> None:
        path = self.folder / "definitions.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def bundle(self) -> str:
        answer = httpx.post(f"{self.url}/v1/decide/check", json={"card": "card-7", "amount": 950.0})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["bundle"])

    def by_name(self) -> list[str]:
        answer = httpx.post(f"{self.url}/v1/features/card_recent", json={"card": "card-7"})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["names"])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    shop.run("init")
    shop.run("apply")
    shop.run("ingest", "payments", "data/payments.ndjson", "--history")
    shop.run("materialize", "all")
    shop.run("train", "fraud")
    shop.run("apply")
    line = [sys.executable, "-m", "trilane", "up", "--json", "--workers", "2", "--port", str(shop.port)]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        until(lambda: _ready(shop), "the server and its lanes")
        yield shop
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _ready(shop: Shop) -> bool:
    try:
        answer = httpx.get(f"{shop.url}/health/ready")
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and not answer.json()["waiting_for"]


def test_a_changed_window_is_planned_built_compared_swapped_and_returned_from(shop: Shop) -> None:
    before, names = shop.bundle(), shop.by_name()
    shop.edit('"payments_60m": tl.count(window="60m")', '"payments_30m": tl.count(window="30m")')
    planned = shop.run("plan")
    [built] = [one for one in planned["rebuilds"] if one["view"] == "card_recent"]
    assert (built["events"], built["models"], built["endpoints"]) == (4000, ["fraud"], ["check"])
    shop.run("apply", "--hold")
    shop.run("train", "fraud")
    shop.run("apply", "--hold")
    assert shop.run("backfill", "card_recent") == {"view": "card_recent", "filled": True}
    assert shop.run("status")["building"] == []
    assert (shop.bundle(), shop.by_name()) == (before, names)
    compared = shop.run("compare", "card_recent", "--keys", "60")
    assert compared["keys"] == 60
    assert (compared["only_old"], compared["only_new"]) == (["payments_60m"], ["payments_30m"])
    assert {one["equal"] for one in compared["differences"]} == {1.0}
    assert {one["name"] for one in shop.run("swap", "--within", "0")["switched"]} == {"check", "reads by name"}
    until(lambda: shop.bundle() != before, "the new bundle")
    until(lambda: "card_recent.payments_30m" in shop.by_name(), "the new version by name")
    shop.edit('"payments_30m": tl.count(window="30m")', '"payments_60m": tl.count(window="60m")')
    assert shop.run("apply")["pending"] == []
    until(lambda: shop.bundle() == before, "the former bundle")
    until(lambda: shop.by_name() == names, "the former version by name")
    assert [one["view"] for one in shop.run("retire", "card_recent")["retired"]] == ["card_recent"]
    assert "is its only version" in shop.run("compare", "card_recent", status=6)["error"]["what"]
