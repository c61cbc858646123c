"""What the page on failures says is tried: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path


def test_each_test_that_the_page_on_failures_names_exists(repository: Path) -> None:
    page = (repository / "docs/explanation/failures.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    texts = [path.read_text() for path in (repository / "tests").rglob("test_*.py")]
    defined = {name for text in texts for name in re.findall(r"def (test_\w+)", text)}
    assert len(named) > 20
    assert named <= defined, sorted(named - defined)
