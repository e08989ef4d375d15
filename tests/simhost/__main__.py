"""`python -m tests.simhost`: simulated Docker hosts in a process of their own, until SIGTERM or SIGINT.

Prints one line `ready DIRECTORY` when they listen. The directory then holds `manifests.yaml` (the Secret and the
Servers, for `kubectl apply`), `id_ed25519` (the key to log in with) and `control`, a UNIX socket (see control.py).
"""

import argparse
import signal
import sys
from pathlib import Path

import yaml
from tests.simhost.control import Control
from tests.simhost.fleet import FleetSettings, SimFleet


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simhost", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1, help="how many (default 1)")
    parser.add_argument("--address", default="127.0.0.1", help="where they listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="of the first, the others follow (default: any free ones)")
    parser.add_argument("--prefix", default="sim", help="of their names: PREFIX-0 and so on (default sim)")
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds of the network, each way (default 0)")
    parser.add_argument("--namespace", default="default", help="of the manifests (default: default)")
    parser.add_argument("--dir", type=Path, default=Path(".local/simhost"), help="(default .local/simhost)")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    options.dir.mkdir(parents=True, exist_ok=True)
    settings = FleetSettings(options.hosts, options.address, options.port, options.prefix, options.delay / 1000)
    with SimFleet(settings) as fleet:
        key = options.dir / "id_ed25519"
        key.touch(mode=0o600)
        key.write_text(fleet.private_key)
        found = [fleet.secret(options.namespace)]
        found += [fleet.server(host, options.namespace) for host in fleet.hosts.values()]
        manifests = options.dir / "manifests.yaml"
        manifests.touch(mode=0o600)
        manifests.write_text(yaml.safe_dump_all(found, sort_keys=False))
        fleet.call(lambda: Control(fleet).listen(options.dir / "control"))
        sys.stdout.write(f"ready {options.dir}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    # Blocked before any thread is made, so that sigwait gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
