"""What a round trip to a Docker host costs: `poetry run python -m tests.bench.hosts` (root; makes a host of its own).

Each figure is the median of its runs, on one connection to an sshd one network namespace away.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.kits.dockerhost import DockerHost, docker_host
from tests.kits.tinyimage import ensure_tiny_image

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.fence import FenceToken
from dotmac_operator.hosts.pool import SshHost, SshHostPool
from dotmac_operator.hosts.port import HostAddress


def median_ms(runs: int, work: Callable[[], object]) -> float:
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


def measure(made: DockerHost, host: SshHost) -> dict[str, float]:
    engine = host.engine
    body = {"Image": ensure_tiny_image(made), "Cmd": ["sleep", "600"], "StopSignal": "SIGKILL"}
    engine.create_container("bench", body)
    engine.start_container("bench")

    def create_and_start() -> None:
        engine.create_container("bench-2", body)
        engine.start_container("bench-2")

    def run_by_cli() -> None:
        host.run(["docker", "run", "--detach", "--name", "bench-2", body["Image"], "sleep", "600"])

    def dial_again(reached: SshHost = host) -> None:
        reached.engine.drop_idle()
        reached.probe()

    fenced = SshHostPool(fence=Leading()).get(address_of(made))

    found = {
        "connect, verify, authenticate, dial": median_ms(5, lambda: connect_anew(made)),
        "ping on the kept channel": host.probe() * 1000,
        "containers() on the kept channel": median_ms(200, engine.containers),
        "`docker ps --all` by SSH": median_ms(10, lambda: host.run(["docker", "ps", "--all"])),
        "a new channel (dial-stdio) and two pings": median_ms(10, dial_again),
        "the same behind the fence": median_ms(10, lambda: dial_again(fenced)),
        "containers() behind the fence": median_ms(200, fenced.engine.containers),
        "run(['true']) on the host": median_ms(20, lambda: host.run(["true"])),
        "exec(['true']) in a container": median_ms(20, lambda: engine.exec("bench", ["true"])),
        "`docker exec` by SSH": median_ms(10, lambda: host.run(["docker", "exec", "bench", "true"])),
        "exec(['cat']) with 1 MiB in and out": median_ms(5, lambda: engine.exec("bench", ["cat"], stdin=b"x" * 2**20)),
        "read_file": median_ms(50, lambda: engine.read_file("bench", "/etc/motd")),
    }
    for label, work in (("create and start", create_and_start), ("`docker run` by SSH", run_by_cli)):
        taken = []
        for _ in range(5):
            taken.append(median_ms(1, work))
            engine.remove_container("bench-2")
        found[label] = statistics.median(taken)
    return found


class Leading:
    """A leader that nobody overtakes."""

    def token(self) -> FenceToken:
        return FenceToken(1, "bench.dotmac-operator.1")

    def refused(self, kept: int) -> None:
        raise AssertionError(kept)


def address_of(made: DockerHost) -> HostAddress:
    key = SecretStr(made.private_key)
    return HostAddress("bench/one", made.address, made.port, made.user, key, None, (made.host_key,))


def connect_anew(made: DockerHost) -> None:
    pool = SshHostPool()
    pool.get(address_of(made)).probe()
    pool.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, docker_host("bench", Path(directory)) as made:
        pool = SshHostPool()
        for label, milliseconds in measure(made, pool.get(address_of(made))).items():
            sys.stdout.write(f"{milliseconds:9.2f} ms  {label}\n")
        pool.close()


if __name__ == "__main__":
    main()
