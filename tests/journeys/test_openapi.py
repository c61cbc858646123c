"""Requests made from the server's own OpenAPI document: none of them is answered by a defect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from tests.servers import running, trained, until
from tests.shop import make_project


def test_no_request_that_the_document_allows_is_answered_by_a_defect(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    make_project(folder).close()
    trained(folder, "big")
    with running(folder, {"serve": ()}) as up:
        until(lambda: up.get("/health/ready").status_code == 200, "the endpoint")
        schema = schemathesis.openapi.from_dict(up.get("/openapi.json").json())
        schema.config.update(base_url=f"http://127.0.0.1:{up.port}")
        asked = set()
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()

            @settings(
                max_examples=25,
                deadline=None,
                derandomize=True,
                database=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def ask(case: schemathesis.Case[Any]) -> None:
                case.call_and_validate(checks=[not_a_server_error], timeout=60)

            ask()
            asked.add(operation.path)
        assert {"/v1/decide/is_big", "/v1/events/orders", "/v2/models/{model}/infer"} <= asked
        assert up.get("/v2/health/ready").status_code == 200
        assert "Traceback" not in up.said("serve")
