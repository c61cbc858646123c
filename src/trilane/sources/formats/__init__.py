"""What the values of an event log may be written in, and how each becomes columns."""
