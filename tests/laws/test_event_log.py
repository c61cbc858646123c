"""The embedded event log keeps the laws of its role."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.sources.log.laws import LAWS, Law
from trilane.sources.log.sqlite import open_log

URLS = ["sqlite://{folder}", "sqlite://{folder}?sync=normal"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_log_keeps_the_law(law: Law, url: str, tmp_path: Path) -> None:
    law(lambda: open_log(url.format(folder=tmp_path / "log")))
