"""OpenAPI documents, from which kubectl validates, explains and merges."""

from dotmac_local.openapi.v2 import swagger
from dotmac_local.openapi.v2_protobuf import MEDIA_TYPES as V2_PROTOBUF
from dotmac_local.openapi.v2_protobuf import encode
from dotmac_local.openapi.v3 import index, spec

__all__ = ["V2_PROTOBUF", "encode", "index", "spec", "swagger"]
