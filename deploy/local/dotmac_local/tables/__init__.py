"""What `kubectl get` shows: rows and columns, made by the server."""

from dotmac_local.tables.columns import Column, columns_of
from dotmac_local.tables.table import render_table

__all__ = ["Column", "columns_of", "render_table"]
