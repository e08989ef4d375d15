"""A checkout of Python's advisories as the vulnerability service that pip-audit asks, for where none can be reached.

The folder is that of github.com/pypa/advisory-database: `vulns/<package>/<id>.yaml`, one advisory each in OSV's form
(https://ossf.github.io/osv-schema/). The service listens on loopback, and answers what pip-audit asks of api.osv.dev.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

MODIFIED = re.compile(r"^modified: [\"']?(\d{4}-\d{2}-\d{2})", re.MULTILINE)


def newest(folder: Path, today: date) -> date:
    """Day of the newest advisory, which tells how old the checkout is. Raises ValueError when there is no advisory."""
    days = (found[1] for path in folder.glob("vulns/*/*.yaml") if (found := MODIFIED.search(path.read_text())))
    # Some are dated in the future by mistake.
    return max(day for day in map(date.fromisoformat, days) if day <= today)


def within(span: dict[str, Any], version: Version) -> bool:
    """Whether a version lies in a range of OSV's kind: the last event at or below it decides."""
    events = sorted(
        ((Version(text), name == "introduced", name) for event in span["events"] for name, text in event.items()),
        key=lambda event: event[:2],
    )
    hit = False
    for at, _, name in events:
        if version > at or (version == at and name != "last_affected"):
            hit = name == "introduced"
    return hit


def affects(advisory: dict[str, Any], name: str, version: str) -> bool:
    """Whether an advisory is about this version; one that cannot be compared counts as if it were."""
    for affected in advisory.get("affected", []):
        package = affected["package"]
        if package["ecosystem"] != "PyPI" or canonicalize_name(package["name"]) != name:
            continue
        spans = [span for span in affected.get("ranges", []) if span["type"] == "ECOSYSTEM"]
        try:
            if version in affected.get("versions", []) or any(within(span, Version(version)) for span in spans):
                return True
        except InvalidVersion:
            return True
    return False


def advisories(folder: Path, name: str, version: str) -> list[dict[str, Any]]:
    """Those about one version of a package that were not withdrawn, in OSV's form."""
    # As text: a version such as 1.10 is no number, and pip-audit takes no times but those of its own service.
    every = (yaml.load(path.read_text(), yaml.BaseLoader) for path in sorted(folder.glob(f"vulns/{name}/*.yaml")))  # noqa: S506
    found = [advisory for advisory in every if "withdrawn" not in advisory and affects(advisory, name, version)]
    return [{key: value for key, value in advisory.items() if key != "published"} for advisory in found]


class Query(BaseHTTPRequestHandler):
    """`POST {"package": {"name": ...}, "version": ...}`, as https://google.github.io/osv.dev/post-v1-query/ has it."""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_POST(self) -> None:  # noqa: N802
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = advisories(self.folder, canonicalize_name(asked["package"]["name"]), asked["version"])
        body = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: one line for each package tells nobody anything."""


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """URL of the service while the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Query, folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        finally:
            server.shutdown()
