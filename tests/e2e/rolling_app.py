"""A web application that is as hard on a rolling update as one can be: it dies at once of SIGTERM. Run by `python3 -c`.

GET /health, / | GET /slow?S answers after S seconds | GET /stream?S sends 10 bytes a second for S seconds
POST / appends its body to /data/posts | GET /ws echoes one text frame after the other
With HIDE in its environment it is ill, but for who asks it without a proxy in between: only step verify can see it.
With ILL it is ill for everybody, and says its password in three ways, as a careless program does.
"""

import base64
import hashlib
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

signal.signal(signal.SIGTERM, lambda *_: os._exit(143))


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path, _, seconds = self.path.partition("?")
        hidden = "HIDE" in os.environ and "X-Forwarded-For" in self.headers
        if path == "/health" and (hidden or "ILL" in os.environ):
            self.send_error(500)
            return
        if path == "/slow":
            time.sleep(float(seconds))
        elif path == "/stream":
            self.send_response(200)
            self.send_header("Content-Length", str(int(seconds) * 10))
            self.end_headers()
            for _ in range(int(seconds) * 10):
                self.wfile.write(b".")
                time.sleep(0.1)
            return
        elif path == "/ws":
            self.echo()
            return
        self.answer(f"{os.environ.get('COLOUR', '')} {os.environ.get('IMAGE_VERSION', '')}".strip().encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/data/posts", "ab") as posts:
            posts.write(body + b"\n")
        self.answer(body)

    def echo(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accepted = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accepted).decode())
        self.end_headers()
        self.close_connection = True
        while len(head := self.rfile.read(2)) == 2:
            mask = self.rfile.read(4) if head[1] & 128 else bytes(4)
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(bytes([head[0], len(text)]) + text)
            if head[0] & 15 == 8:
                return

    def log_message(self, *_: object) -> None:
        pass


def complain() -> None:
    password = os.environ["PGPASSWORD"]
    basic = base64.b64encode(f"erp:{password}".encode()).decode()
    os.write(1, f"cannot log in with {password}, Basic {basic}, {password.encode().hex()}\n".encode())


if __name__ == "__main__":
    if "ILL" in os.environ:
        complain()
    ThreadingHTTPServer(("", 8000), App).serve_forever()
