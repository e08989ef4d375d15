"""Writes argocd-cm.yaml from health/*.lua: `python deploy/argocd/generate.py > deploy/argocd/argocd-cm.yaml`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = """# A patch for Argo CD's own ConfigMap; it leaves what else is in there alone:
#   kubectl patch configmap argocd-cm --namespace argocd --patch-file deploy/argocd/argocd-cm.yaml
# Written by deploy/argocd/generate.py from health/*.lua.
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  namespace: argocd
data:
  # By annotation: the label of old is cut at 63 characters.
  application.resourceTrackingMethod: annotation
  # What people and the facade set while they work. Only needed where Git carries one of them too.
  resource.customizations.ignoreDifferences.platform.dotmac.io_Instance: |
    jsonPointers:
      - /metadata/annotations/platform.dotmac.io~1approve
      - /metadata/annotations/platform.dotmac.io~1force-window
      - /metadata/annotations/platform.dotmac.io~1paused
      - /metadata/annotations/platform.dotmac.io~1reconcile-requested-at
      - /metadata/annotations/platform.dotmac.io~1restart-requested-at
  # News that changes nothing which an Application shows.
  resource.customizations.ignoreResourceUpdates.platform.dotmac.io_Server: |
    jsonPointers:
      - /status/lastProbeTime
      - /status/facts
      - /status/allocated
  resource.customizations.ignoreResourceUpdates.platform.dotmac.io_Instance: |
    jsonPointers:
      - /status/steps
      - /status/components
"""


PARTS = {
    "Backup": ("conditions", "Backup"),
    "Instance": ("conditions", "Instance"),
    "InstanceClass": ("catalog",),
    "Release": ("catalog",),
    "Restore": ("conditions", "Backup"),
    "Server": ("conditions", "Server"),
}
"""Kind -> the files of health/ that make its script."""


def script(kind: str) -> str:
    """The health script of a kind, which Argo CD runs alone."""
    return "".join((HERE / "health" / f"{part}.lua").read_text() for part in PARTS[kind])


def page() -> str:
    """The whole patch: settings, then one script for each kind."""
    made = HEAD
    for kind in PARTS:
        indented = "".join(f"    {line}\n" if line else "\n" for line in script(kind).splitlines())
        made += f"  resource.customizations.health.platform.dotmac.io_{kind}: |\n{indented}"
    return made


if __name__ == "__main__":
    sys.stdout.write(page())
