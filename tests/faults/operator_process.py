"""The operator as a process that can be killed at any moment, started within milliseconds.

A server process has imported everything once; each operator is a fork of it.
"""

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from kubernetes import client

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["dotmac_operator.main", "dotmac_operator.cli", "tests.faults.operator_process"])


# The client imports its models when one is first used: 0.6 s of each start, were it not done before the fork.
_MODELS = (client.CoordinationV1Api, client.CoreV1Api, client.CustomObjectsApi, client.CoreV1Event)


def _run(environment: dict[str, str], arguments: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    from kubernetes.config import kube_config

    from dotmac_operator.cli import app

    # Read from the environment when the module was imported, which was before the fork.
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = environment["KUBECONFIG"]

    sys.argv = ["dotmac-operator", *arguments]
    app()


@dataclass
class OperatorProcess:
    """`dotmac-operator run -n NAMESPACE`."""

    kubeconfig: Path
    namespace: str
    log: Path
    settings: dict[str, str] = field(default_factory=dict)
    _process: BaseProcess | None = None

    def start(self) -> None:
        environment = {
            "KUBECONFIG": str(self.kubeconfig),
            "DOTMAC_OPERATOR_BREAKER_SECONDS": "1",
            "DOTMAC_OPERATOR_METRICS_ADDRESS": "off",
            "DOTMAC_OPERATOR_LEADER_ELECTION_NAMESPACE": self.namespace,
            "DOTMAC_OPERATOR_FENCING_DOMAIN": self.namespace,
            **self.settings,
        }
        arguments = ["run", "-n", self.namespace, "--log-format", "json", "--log-level", "debug"]
        self._process = _FORKS.Process(target=_run, args=(environment, arguments, str(self.log)))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.pid is not None
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def killed(self) -> bool:
        """Whether SIGKILL has ended the last one that was started."""
        return self._process is not None and self._process.exitcode == -signal.SIGKILL

    def kill(self) -> None:
        """SIGKILL. May be called from any thread."""
        if self._process is not None:
            self._process.kill()

    def wait(self) -> None:
        if self._process is not None:
            self._process.join(10)

    def stop(self) -> None:
        """SIGTERM; SIGKILL after 10 s."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
            raise AssertionError("the operator ignored SIGTERM")

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""
