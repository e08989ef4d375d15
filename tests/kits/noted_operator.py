"""`dotmac-operator run` that also notes which Instances it has found in sync: `python -m tests.kits.noted_operator`.

Environment: NOTES, a file that gets one JSON line ten times a second: `known` Instances (whose plan was empty once in
this process), `writes` to the API (without the Lease), `requests` to hosts, `cpu` seconds. Arguments: those of
`dotmac-operator`. Nothing of the operator is changed but that a method tells the name first.
"""

import json
import os
import threading
import time
from typing import Any

from dotmac_operator import cli, kube
from dotmac_operator.hosts.pool import SshHost
from dotmac_operator.reconcile.rollout import Rollout

EVERY = 0.1

known: set[str] = set()
clusters: list[kube.KubeCluster] = []
hosts: list[SshHost] = []


def note(path: str) -> None:
    with open(path, "a") as file:
        while True:
            spent = os.times()
            told = {
                "known": len(known),
                "writes": sum(cluster.writes for cluster in clusters),
                "requests": sum(host.round_trips for host in hosts),
                "execs": sum(host.execs for host in hosts),
                "cpu": spent.user + spent.system,
                "at": time.time(),
            }
            file.write(json.dumps(told) + "\n")
            file.flush()
            time.sleep(EVERY)


def watch() -> None:
    converged, cluster_init, host_init = Rollout._converged, kube.KubeCluster.__init__, SshHost.__init__

    def noted(rollout: Rollout, *args: Any, **more: Any) -> Any:
        known.add(rollout.key)
        return converged(rollout, *args, **more)

    def cluster(self: kube.KubeCluster, *args: Any, **more: Any) -> None:
        cluster_init(self, *args, **more)
        clusters.append(self)

    def host(self: SshHost, *args: Any, **more: Any) -> None:
        host_init(self, *args, **more)
        hosts.append(self)

    Rollout._converged = noted  # type: ignore[method-assign]
    kube.KubeCluster.__init__ = cluster  # type: ignore[method-assign]
    SshHost.__init__ = host  # type: ignore[method-assign]


if __name__ == "__main__":
    watch()
    threading.Thread(target=note, args=(os.environ["NOTES"],), daemon=True).start()
    cli.app()
