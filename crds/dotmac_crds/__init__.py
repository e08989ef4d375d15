"""The custom resources of platform.dotmac.io, as pydantic models: the one schema everything else is generated from."""
