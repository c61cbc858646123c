"""The server process: the HTTP API over the event log, the online store and the deployed bundles."""
