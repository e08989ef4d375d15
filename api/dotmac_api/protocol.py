"""What uvicorn answers before the application is asked, in the shape of every other answer."""

import logging
import uuid

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dotmac_api.errors import ErrorBody

log = logging.getLogger(__name__)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1; what is none gets a request id and the one error shape, too."""

    def send_400_response(self, msg: str) -> None:
        request_id = uuid.uuid4().hex
        body = ErrorBody(code="bad_request", message="this is no HTTP request that can be read").model_dump_json()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n\r\n"
        )
        log.info("no HTTP request was sent; answered as %s", request_id)
        self.transport.write((head + body).encode("ascii"))
        self.transport.close()
