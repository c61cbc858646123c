"""The client: decisions, features and events for Python programs, over HTTP or in their own process."""
