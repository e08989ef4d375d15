"""OpenAPI documents, from which kubectl validates, explains and merges."""

from dotmac_local.openapi.v2 import swagger
from dotmac_local.openapi.v3 import index, spec

__all__ = ["index", "spec", "swagger"]
