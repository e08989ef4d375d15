"""A registry on a host's own loopback (Debian's docker-registry), where Docker speaks plain HTTP to it."""

import subprocess
import time
from pathlib import Path

from tests.kits.dockerhost import DockerHost

from dotmac_local.demo.processes import CommandFailed

CONFIG = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: "{root}"}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
"""


class Registry:
    """Started and stopped by its owner; images are pushed into it by the host's Engine."""

    def __init__(self, host: DockerHost, directory: Path, port: int = 5000) -> None:
        self.address = f"127.0.0.1:{port}"
        self._host = host
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "config.yml"
        config.write_text(CONFIG.format(root=self._directory / "blobs", address=self.address))
        argv = ["nsenter", f"--net=/run/netns/{self._host._namespace}", "docker-registry", "serve", str(config)]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, (self._directory / "log").read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            self._host.in_namespace("curl", "--silent", "--fail", f"http://{self.address}/v2/")
        except CommandFailed:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def push(self, image: str, name: str) -> str:
        """Copies an image of the host's Engine into the registry; the reference to pull it by. The Engine forgets the
        name but, by its other tag, keeps the layers, so that a pull takes no time."""
        reference = f"{self.address}/{name}"
        self._host.docker("tag", image, reference)
        self._host.docker("push", "--quiet", reference)
        self._host.docker("rmi", reference)
        return reference
