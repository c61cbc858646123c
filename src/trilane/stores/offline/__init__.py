"""The offline store: all that was ever accepted, as files, and the engine that reads them."""

from trilane.stores.offline.protocol import Connection, MicroBatch, Relation, Warehouse

__all__ = ["Connection", "MicroBatch", "Relation", "Warehouse"]
