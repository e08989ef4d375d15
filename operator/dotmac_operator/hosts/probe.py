"""Health probes through a connection that the host itself opens to a container."""

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from urllib3.util.ssltransport import SSLTransport

from dotmac_operator.hosts.port import HostError, ProbeRefused
from dotmac_operator.hosts.stream import Bytes, Stream, StreamConnection


class ProbeInvalid(HostError):
    """A path or a header that HTTP cannot carry."""

    reason = "ProbeInvalid"
    retryable = False


@dataclass(frozen=True)
class HttpProbe:
    path: str
    headers: Mapping[str, str]
    tls_server_name: str | None = None


class _StreamSocket:
    """A stream with the names that urllib3's TLS expects of a socket."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.recv = stream.recv
        self.sendall = stream.sendall
        self.close = stream.close


def get_status(stream: Stream, probe: HttpProbe, where: str) -> int:
    """One GET; the status code of the answer. Redirects are not followed, the body is not read."""
    try:
        secured = stream if probe.tls_server_name is None else _tls(stream, probe.tls_server_name)
        connection = StreamConnection(secured)
        connection.request("GET", probe.path, headers=dict(probe.headers))
        return connection.getresponse().status
    except (http.client.InvalidURL, UnicodeError, ValueError) as error:
        raise ProbeInvalid(
            f"{where}: the path or a header of the probe is not valid HTTP: {type(error).__name__}"
        ) from None
    except (http.client.HTTPException, OSError) as error:
        raise ProbeRefused(f"{where}: no HTTP answer: {type(error).__name__}") from error


def _tls(stream: Stream, server_name: str) -> Bytes:
    """TLS by server name, unverified: the probe proves that the route exists, the ACME client cares for the chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return cast(Bytes, SSLTransport(cast(Any, _StreamSocket(stream)), context, server_hostname=server_name))
