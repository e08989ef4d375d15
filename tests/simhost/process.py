"""Programs that a benchmark or a test starts beside itself: simulated hosts, the operator with notes, a bare Kopf."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kits.controlplane import PYTHONPATH
from tests.simhost.control import ControlClient

type Notes = dict[str, Any]


@contextmanager
def simhosts(directory: Path, hosts: int, namespace: str = "default") -> Iterator[ControlClient]:
    """Simulated hosts in a process of their own."""
    options = ["--hosts", str(hosts), "--namespace", namespace, "--dir", str(directory)]
    argv = [sys.executable, "-m", "tests.simhost", *options]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready "), "the simulated hosts did not start"
        control = ControlClient(directory / "control")
        try:
            yield control
        finally:
            control.close()
            process.terminate()
            process.wait(20)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PYTHONPATH, **more}


@dataclass
class Noted:
    """A program that writes notes about itself; see tests/kits/noted_operator.py."""

    process: subprocess.Popen[bytes]
    notes: Path
    began: float

    def last(self) -> Notes:
        """Its newest note; {} when there is none yet."""
        lines = self.notes.read_bytes().splitlines() if self.notes.exists() else []
        whole = lines[:-1] if lines else []  # the last one may not be written to its end
        found: Notes = json.loads(whole[-1]) if whole else {}
        return found

    def wait(self, known: int, seconds: float) -> Notes:
        """The first note in which so many objects are known; `at` and `cpu` in it are seconds, `at` since the start."""
        until = time.monotonic() + seconds
        while (last := self.last()).get("known", 0) < known:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log()}"
            assert time.monotonic() < until, f"after {seconds:.0f} s: {last} of {known}: {self.log()}"
            time.sleep(0.1)
        return last | {"at": last["at"] - self.began}

    def memory(self) -> float:
        """The peak of resident memory so far, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024

    def log(self) -> str:
        return "\n".join(self.notes.with_suffix(".log").read_text(errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


@contextmanager
def noted(module: str, notes: Path, *arguments: str, **variables: str) -> Iterator[Noted]:
    """`python -m module`, stopped at the end."""
    notes.unlink(missing_ok=True)
    with notes.with_suffix(".log").open("wb") as log:
        env = environment(NOTES=str(notes), **variables)
        argv = [sys.executable, "-m", module, *arguments]
        made = Noted(subprocess.Popen(argv, env=env, stdout=log, stderr=log), notes, time.time())
        try:
            yield made
        finally:
            made.stop()


def operator(kubeconfig: Path, notes: Path, namespace: str, **variables: str) -> Any:
    """The operator, with what it finds in sync noted."""
    quiet = {"DOTMAC_OPERATOR_METRICS_ADDRESS": "off", "KUBECONFIG": str(kubeconfig)}
    return noted("tests.kits.noted_operator", notes, "run", "-n", namespace, **(quiet | variables))
