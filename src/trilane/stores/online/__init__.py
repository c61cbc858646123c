"""The online store: packed rows by key, read by every request."""

from trilane.stores.online.protocol import OnlineStore, Transaction, Writer

__all__ = ["OnlineStore", "Transaction", "Writer"]
