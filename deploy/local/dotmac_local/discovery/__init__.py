"""Which groups, versions and resources there are: the documents that clients find their way by."""

from dotmac_local.discovery.documents import aggregated, api_group, api_group_list, api_versions, resource_list
from dotmac_local.discovery.version import VERSION

__all__ = ["VERSION", "aggregated", "api_group", "api_group_list", "api_versions", "resource_list"]
