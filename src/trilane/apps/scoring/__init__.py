"""Bulk scoring: the rows of tables through the plan and the model of a deployed bundle, on all cores, resumable."""
