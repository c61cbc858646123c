"""How long a client tries: whether to ask again, and after which pause.

Laws: never beyond the deadline; only where a connection failed or the server said 429 or 503; never sooner than
Retry-After. Pauses are drawn at random below a bound that doubles ("full jitter": M. Brooker, Exponential backoff and
jitter, AWS, 2015), so that callers who were refused together do not come back together.
"""

from __future__ import annotations

from dataclasses import dataclass

from trilane.errors import DefinitionError

__all__ = ["AGAIN", "Patience", "seconds_of"]

AGAIN = (429, 503)
_LONGEST_WAIT = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """`timeout`: seconds for a call and all its attempts; `retries`: how often it is asked again.

    `first`, `longest`: seconds, the bounds of the first pause and of any.
    """

    timeout: float = 10.0
    retries: int = 5
    first: float = 0.05
    longest: float = 2.0

    def __post_init__(self) -> None:
        for name, value, least in (("timeout", self.timeout, 0.001), ("retries", self.retries, 0)):
            if not value >= least:
                raise DefinitionError(f"{name} is {value}", where="client", remedy=f"Give at least {least}")

    def pause(self, attempt: int, *, left: float, retry_after: float, chance: float) -> float | None:
        """Seconds to wait before the next attempt after number `attempt` (from 0), with `left` seconds until the
        deadline and `chance` in [0, 1); None: give up.
        """
        if attempt >= self.retries:
            return None
        rest = retry_after + chance * min(self.longest, self.first * 2.0 ** min(attempt, 30))
        return rest if rest < left else None


def seconds_of(header: str) -> float:
    """The seconds of a Retry-After header; 0 for none, and for a date, which few send."""
    text = header.strip()
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdecimal() else 0.0
