"""The requests of a batch of decisions, as its batcher hands them over: their rows, together and of each.

Law: whoever was answered without the batch is in it, and counts for none.
"""

from __future__ import annotations

import msgspec
import numpy as np

from trilane.serving.engine import Answers

__all__ = ["Portion", "heard", "joined", "sizes"]


class Portion(msgspec.Struct):
    """The rows of one request, and the instant of `time.perf_counter` after which their answer is worthless.

    `gone`: whoever asked was answered without the batch that it is in.
    """

    rows: list[msgspec.Struct]
    deadline: float
    gone: bool = False


def joined(portions: list[Portion], *, gone: bool = False) -> list[msgspec.Struct]:
    """The rows of a batch, whose requests are `gone` from any other that they are in."""
    if gone:
        for portion in portions:
            portion.gone = True
    return portions[0].rows if len(portions) == 1 else [row for portion in portions for row in portion.rows]


def heard(portions: list[Portion], answers: Answers) -> Answers:
    """The answers that somebody hears; those who were answered before have others, with ids of their own."""
    if not any(portion.gone for portion in portions):
        return answers
    gone = np.repeat([portion.gone for portion in portions], [len(portion.rows) for portion in portions])
    return answers.of(np.flatnonzero(~gone).tolist())


def sizes(portions: list[Portion], rows: int) -> tuple[int, ...]:
    """The rows of each request; nothing if each has one."""
    return () if len(portions) == rows else tuple(len(portion.rows) for portion in portions)
