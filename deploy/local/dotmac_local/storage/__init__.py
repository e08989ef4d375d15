"""Objects and their history: in memory for reading, in SQLite for surviving."""

from dotmac_local.storage.store import Collection, HistoryLimits, Revision, StorageFailed, Store, TooOld

__all__ = ["Collection", "HistoryLimits", "Revision", "StorageFailed", "Store", "TooOld"]
