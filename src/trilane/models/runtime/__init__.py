"""Runtimes: what executes an artifact."""
