"""The event log: what was said, in order, per source and partition."""

from trilane.sources.log.protocol import EventLog

__all__ = ["EventLog"]
