"""The batch lane: the log into the archive, the archive into versions that serving reads."""

from trilane.lanes.batch.archive import archive
from trilane.lanes.batch.materialize import due, materialize

__all__ = ["archive", "due", "materialize"]
