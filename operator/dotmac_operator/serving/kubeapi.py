"""The Kubernetes API as health and metrics see it."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from dotmac_crds.base import GROUP, VERSION
from dotmac_operator.reconcile.ports import ClusterError
from dotmac_operator.serving.watching import Listed, VersionGone

CONNECT_SECONDS = 3.0
_GONE = 410


def count_requests(api: client.ApiClient, counted: Callable[[str, str], None]) -> None:
    """Has `counted` called with the status code and the method of each request; `<error>` where there was no answer."""
    rest: Any = api.rest_client
    ask = rest.request

    @functools.wraps(ask)
    def request(method: str, *args: Any, **kwargs: Any) -> Any:
        code = "<error>"
        try:
            answer = ask(method, *args, **kwargs)
            code = str(answer.status)
            return answer
        finally:
            counted(code, method)

    rest.request = request


class KubeVersions:
    """Implements `watching.Versions` with a client of its own."""

    def __init__(self, api: client.ApiClient, seconds: float = 10.0) -> None:
        """`seconds` that an answer may take: a canary that waits long says nothing."""
        self._timeout = (CONNECT_SECONDS, max(3.0, seconds))  # the watch itself takes one
        self._custom = client.CustomObjectsApi(api)

    def newer(self, plural: str, namespace: str, version: str) -> list[str]:
        options = {"watch": True, "resource_version": version, "timeout_seconds": 1, "_preload_content": False}
        answer = self._ask(plural, namespace, options)
        try:
            return list(versions_of(answer))
        except HTTPError as error:
            raise ClusterError(f"the Kubernetes API did not answer: {type(error).__name__}") from None
        finally:
            answer.release_conn()

    def current(self, plural: str, namespace: str) -> Listed:
        found = self._ask(plural, namespace, {"limit": 1})
        version = str(found["metadata"].get("resourceVersion") or "")
        return Listed(int(version) if version.isdecimal() else 0, empty=not found.get("items"))

    def _ask(self, plural: str, namespace: str, options: dict[str, Any]) -> Any:
        place = (GROUP, VERSION, namespace, plural) if namespace else (GROUP, VERSION, plural)
        call = getattr(self._custom, f"list_{'namespaced' if namespace else 'cluster'}_custom_object")
        try:
            return call(*place, _request_timeout=self._timeout, **options)
        except ApiException as error:
            kind = VersionGone if error.status == _GONE else ClusterError
            raise kind(f"the Kubernetes API answered {error.status} {error.reason}") from None
        except HTTPError as error:
            raise ClusterError(f"the Kubernetes API did not answer: {type(error).__name__}") from None


def versions_of(lines: Iterable[bytes]) -> Iterator[str]:
    """Versions in the lines of a watch. Raises VersionGone for the API's 410 in it, ClusterError for another error."""
    for line in lines:
        if not line.strip():
            continue
        event: Mapping[str, Any] = json.loads(line)
        found = event.get("object") or {}
        if event.get("type") == "ERROR":
            message = f"the watch answered {found.get('code')}: {str(found.get('message'))[:200]}"
            raise VersionGone(message) if found.get("code") == _GONE else ClusterError(message)
        if event.get("type") != "BOOKMARK":
            yield str(found["metadata"]["resourceVersion"])
