"""How long a caller will wait, in the words of each protocol: HTTP headers, gRPC, Envoy, the Open Inference Protocol.

Law: of all that is said the least counts; what cannot be read is refused, since guessing would break a promise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from trilane.errors import ContractError

__all__ = ["ENVOY", "GRPC", "HEADER", "Headers", "grpc_timeout", "milliseconds", "of_headers", "of_parameters"]

HEADER = "x-request-timeout-ms"
ENVOY = "x-envoy-expected-rq-timeout-ms"
GRPC = "grpc-timeout"
_UNITS = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_GRPC_DIGITS = 8  # of "gRPC over HTTP/2"
_DIGITS = 12  # 30 years of milliseconds


class Headers(Protocol):
    """What gives the text of a header, None if it is not there."""

    def get(self, key: str, /) -> str | None: ...


def milliseconds(text: str, where: str) -> float:
    """Seconds, of a header that says whole milliseconds. Raises ContractError (400)."""
    if not (text.isascii() and text.isdecimal() and int(text[:_DIGITS]) > 0):
        remedy = "Send whole milliseconds, 1 or more"
        raise ContractError(f"{text!r} is no time to wait", where=where, remedy=remedy, status=400)
    return int(text[:_DIGITS]) / 1e3


def grpc_timeout(text: str) -> float:
    """Seconds, of gRPC's header: up to eight digits and a unit. Raises ContractError (400)."""
    digits, unit = text[:-1], text[-1:]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _GRPC_DIGITS and unit in _UNITS):
        remedy = "Send up to 8 digits and one of H, M, S, m, u, n, such as 50m"
        raise ContractError(f"{text!r} is no time to wait", where=GRPC, remedy=remedy, status=400)
    return int(digits) * _UNITS[unit]


def of_headers(headers: Headers) -> float:
    """Seconds that the caller will wait from now; infinite if it does not say. Raises ContractError (400)."""
    get = headers.get
    found = math.inf
    if (text := get(HEADER)) is not None:
        found = milliseconds(text, HEADER)
    if (text := get(ENVOY)) is not None and text != "0":  # 0: its route has no time limit
        found = min(found, milliseconds(text, ENVOY))
    if (text := get(GRPC)) is not None:
        found = min(found, grpc_timeout(text))
    return found


def of_parameters(parameters: Mapping[str, object], where: str = "parameters.timeout") -> float:
    """Seconds, of the microseconds that a request of the Open Inference Protocol gives; 0 or none: infinite.

    Clients write it as a number or as text (tritonclient over gRPC). Raises ContractError (400).
    """
    said = parameters.get("timeout")
    if said is None:
        return math.inf
    if isinstance(said, str) and said.isascii() and said.isdecimal():
        said = int(said[:_DIGITS])
    if isinstance(said, bool) or not isinstance(said, int) or said < 0:
        remedy = "Send whole microseconds, or 0 for no time limit"
        raise ContractError(f"{said!r} is no time to wait", where=where, remedy=remedy, status=400)
    return said / 1e6 if said else math.inf
