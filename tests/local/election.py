"""A candidate of an election: `election.py LeaseLock|ConfigMapLock NAME KUBECONFIG` says so when it leads."""

from __future__ import annotations

import sys
import time

from kubernetes import config
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock


def lead() -> None:
    sys.stdout.write("leading\n")
    sys.stdout.flush()
    time.sleep(60)


def main(kind: str, name: str, kubeconfig: str) -> None:
    config.load_kube_config(kubeconfig)
    lock = {"LeaseLock": LeaseLock, "ConfigMapLock": ConfigMapLock}[kind](f"lead-{kind.lower()}", "default", name)
    settings = electionconfig.Config(
        lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=lead, onstopped_leading=None
    )
    leaderelection.LeaderElection(settings).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
