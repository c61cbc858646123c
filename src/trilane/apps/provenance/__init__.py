"""Provenance of feature values: what a value was made of, and the same value computed again from the events."""
