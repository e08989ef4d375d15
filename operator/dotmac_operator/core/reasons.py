"""Every condition and every reason of one, with what to do: `python -m dotmac_operator.core.reasons` writes the page.

A test collects the reasons from the code and compares them with this table: none is missing, and none is left over.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

type State = Literal["good", "moving", "waits", "tried again", "needs you"]

NOTHING = "Nothing."


@dataclass(frozen=True)
class Reason:
    """One reason: how urgent, what it means, what to do."""

    state: State
    meaning: str
    remedy: str = NOTHING


CONDITIONS: dict[str, str] = {
    "Ready": "As its spec says: it serves, or is stopped as asked. Unknown: what serves is not what was asked for",
    "Reconciling": "The operator is at work or tries again by itself",
    "Stalled": "It cannot go on until somebody does something; the reason says what",
    "Scheduled": "A Server was chosen for the Instance",
    "DatabaseReady": "The tenant's database answers",
    "AppHealthy": "Every container of the application is healthy",
    "RouteReady": "The proxy has the way to the tenant, or the page that it is stopped",
    "CertificateReady": "The first domain that has TLS was served with a certificate",
    "InSync": "The host is as the spec says",
    "Suspended": "The Instance is stopped, or is being stopped; absent while it runs",
    "Paused": "The annotation `platform.dotmac.io/paused` is set; absent without it",
    "ApprovalNeeded": "A change waits for somebody's approval; absent otherwise",
    "DeletionBlocked": "The deletion waits; the message says for what",
    "Reachable": "A Server's sshd is reached",
    "HostKeyVerified": "A Server's key is one of those that are pinned",
    "DockerReady": "A Server's Docker engine answers the operator's user",
    "ProxyReady": "A Server's proxy runs with the right configuration",
    "DiskPressure": "Less than a tenth of the disk with Docker's data is free",
    "BackupHealthy": "The last backup of the Instance was a good one; absent until there was any",
}
"""Type -> what True means."""

_HOST = "Look at the message, at the host's sshd and dockerd, and at the network between."

REASONS: dict[str, Reason] = {
    # What goes as it should
    "Converged": Reason("good", "As the spec says."),
    "Placed": Reason("good", "A Server was chosen."),
    "Healthy": Reason("good", "It answers."),
    "Routed": Reason("good", "The proxy has the way."),
    "Served": Reason("good", "The certificate was served."),
    "Valid": Reason("good", "A Release or class that can be used."),
    "Observed": Reason("good", "Seen on the host."),
    "Running": Reason("good", "The proxy runs; or the Instance is meant to."),
    "BackedUp": Reason("good", "A Backup is complete; of an Instance: there is one."),
    "Restored": Reason("good", "A Restore is complete, and the Instance serves its data."),
    "EnoughSpace": Reason("good", "A tenth of the disk or more is free."),
    "Suspended": Reason("good", "Stopped as `spec.state` asks; data is kept.", "To go on: `state: Running`."),
    "Archived": Reason("good", "Dumped and removed as `spec.state` asks; data is kept.", "To go on: `state: Running`."),
    "TrialExpired": Reason(
        "good",
        "Suspended because the trial is over.",
        "To go on: a later `spec.trial.expiresAt`, or take `trial` away.",
    ),
    # What moves
    "Progressing": Reason(
        "moving", "A step is under way; the message says which.", "Wait; `status.steps` tells how far it is."
    ),
    "RollingBack": Reason("moving", "A change has failed, and what served before is being restored.", "Wait."),
    "Copying": Reason("moving", "The data of the Instance is being copied, while it is served.", "Wait."),
    "Restoring": Reason(
        "moving", "A Restore puts the data of a Backup back; `status.step` of the Restore says how far it is.", "Wait."
    ),
    "Stopping": Reason("moving", "The Instance is being stopped.", "Wait."),
    "Deleting": Reason(
        "moving", "The object is being deleted; the message says what it waits for.", "Wait, or do what it says."
    ),
    "Differs": Reason(
        "moving", "The host differs from the spec.", "Wait; `status.plan` tells what will be done and why."
    ),
    "NotHealthy": Reason(
        "moving", "Something does not answer; the message says which.", "Wait; if it stays, look at its logs."
    ),
    "NotRouted": Reason("moving", "The proxy does not have the way yet.", "Wait."),
    "NotServed": Reason(
        "moving", "No certificate yet.", "Does the name resolve to the host, and are ports 80 and 443 open to the CA?"
    ),
    "NotRunning": Reason("moving", "The proxy does not run yet.", "Wait; if it stays, look at its logs on the host."),
    "NotObserved": Reason(
        "moving", "The host could not be looked at; the message says what was last seen.", "See `Ready`."
    ),
    # What waits for a word or a time
    "Waiting": Reason("waits", "No Server was chosen yet.", "See `Ready`."),
    "Annotated": Reason("waits", "Paused by annotation.", "Take `platform.dotmac.io/paused` away."),
    "Paused": Reason(
        "waits", "Paused by annotation: nothing is looked at or changed.", "Take `platform.dotmac.io/paused` away."
    ),
    "ApprovalNeeded": Reason(
        "waits",
        "A disruptive change waits for its approval (`spec.approval: Required`).",
        "Look at `status.plan`, then annotate with `platform.dotmac.io/approve=<status.plan.hash>`.",
    ),
    "WaitingForWindow": Reason(
        "waits",
        "A disruptive change waits for the maintenance window in `status.nextWindow`.",
        "Wait, or annotate with `platform.dotmac.io/force-window=true`.",
    ),
    "BackupRunning": Reason(
        "waits", "A change, or a Restore, waits until a Backup (or Restore) is done with the data as it is.", "Wait."
    ),
    "InstanceChanging": Reason(
        "waits", "A Backup or Restore waits until the Instance's change has ended.", "Wait; see the Instance."
    ),
    "InstanceNotServed": Reason(
        "waits", "A Backup or Restore waits until the Instance was deployed.", "Wait; see the Instance."
    ),
    "InstanceNotFound": Reason(
        "waits",
        "There is no such Instance in the namespace; or it was deleted while its data was at work.",
        "Create it; or delete the Backup or Restore and make one with the right name.",
    ),
    "BackupNotFound": Reason(
        "waits",
        "There is no such Backup in the namespace; or it was let go while it was read.",
        "Create it; or delete the Restore and make one with the right name.",
    ),
    "DatabaseNotRunning": Reason(
        "waits", "The Instance's database does not run at the moment.", "Wait; if it stays, see the Instance."
    ),
    "RestoreRunning": Reason(
        "needs you",
        "Another Restore of the Instance is under way. A Backup waits for it; a Restore is refused.",
        "Once it has ended, create another Restore.",
    ),
    "DeletionBlocked": Reason(
        "waits",
        "Protected, or a host that is away, or a Server with Instances.",
        "Set `deletion.protected: false`; bring the host back or annotate with `platform.dotmac.io/orphan=true`; "
        "delete "
        "the Instances first.",
    ),
    # Servers and connections
    "ServerNotReady": Reason(
        "tried again", "The Instance's host cannot be used now; it may well serve on.", "See the Server's conditions."
    ),
    "Unreachable": Reason(
        "tried again",
        "No connection to the host's sshd.",
        "Is it up? `address`, `port`, firewall, network policy of the operator.",
    ),
    "CircuitOpen": Reason(
        "tried again", "The host has failed repeatedly and is left alone for a moment.", "As for Unreachable."
    ),
    "HostError": Reason("tried again", "A call to the host has failed.", _HOST),
    "DeadlineExceeded": Reason(
        "tried again",
        "A call took too long; its effect is looked at before anything else.",
        "Is the host overloaded, or its disk slow?",
    ),
    "HostBusy": Reason(
        "tried again", "A call did not get its turn in time.", "Raise `maxConcurrentOperations`, or wait."
    ),
    "FenceUnavailable": Reason(
        "tried again",
        "The host cannot keep the number of the leader, so nothing is changed there.",
        "Is its disk full or read-only? Has the user a home directory?",
    ),
    "SecretMissing": Reason(
        "tried again", "A Secret or a key of it does not exist; the message names the field.", "Create it."
    ),
    "HostKeyUnknown": Reason(
        "needs you", "The host's key is not pinned.", "Put it into `spec.hostKeys` after checking it by another way."
    ),
    "HostKeyChanged": Reason(
        "needs you",
        "The host offers another key: reinstalled, or somebody is in between.",
        "Find out which; then correct `spec.hostKeys` (or clear the pinned key by a new Server).",
    ),
    "AuthenticationFailed": Reason(
        "needs you",
        "sshd refuses the user or the key.",
        "`spec.user`, the Secret of `spec.credentialsRef`, the host's authorized_keys.",
    ),
    "DockerNotPermitted": Reason(
        "needs you", "The user may not use Docker's socket.", "Add the user to the group `docker` on the host."
    ),
    "DockerAbsent": Reason(
        "tried again",
        "No Docker client or no engine.",
        "Install or start Docker on the host.",
    ),
    "DockerTooOld": Reason("needs you", "The engine is older than 20.10.", "Upgrade Docker on the host."),
    "ForwardingRefused": Reason(
        "needs you",
        "sshd refuses TCP forwarding, so containers cannot be probed.",
        "`AllowTcpForwarding local` in sshd_config.",
    ),
    "ManagedElsewhere": Reason(
        "needs you",
        "Another control plane manages this host.",
        "Delete the Server there, which releases the host; or see ADR 0013.",
    ),
    "EngineError": Reason("tried again", "Docker answered with an error.", _HOST),
    "NotFound": Reason(
        "tried again",
        "Docker does not find it: most often an image that is not in the registry.",
        "The image's name in the Release; the host's access to the registry.",
    ),
    "Conflict": Reason(
        "tried again",
        "Docker says that it is in the wrong state or that the name is taken.",
        "Wait; if it stays, look on the host.",
    ),
    "NameTaken": Reason(
        "tried again",
        "A container of somebody else has one of our names.",
        "Remove or rename it on the host. After a restore: the annotation that the message names.",
    ),
    "ProxyRefused": Reason(
        "tried again", "The proxy did not take its configuration.", "Its message; is the proxy's image a Caddy 2?"
    ),
    "ProbeRefused": Reason(
        "tried again", "Nothing listens where a container is probed.", "The port of the role in the Release."
    ),
    "ProbeInvalid": Reason("needs you", "A health path or a header that HTTP cannot carry.", "Correct the Release."),
    "CommandInvalid": Reason(
        "needs you", "An argument that cannot be carried to a host.", "Correct the field in the message."
    ),
    "LittleSpace": Reason(
        "waits",
        "Less than a tenth of the disk is free.",
        "Remove images that nothing uses; enlarge the disk; move tenants.",
    ),
    # What an object says
    "InvalidSpec": Reason(
        "needs you", "The operator cannot read the spec.", "Upgrade the operator to the version of the CRDs."
    ),
    "Invalid": Reason("needs you", "The Release or class cannot be used.", "Correct what the message names."),
    "InvalidRelease": Reason("needs you", "The Instance's Release cannot be used.", "Correct what the message names."),
    "InvalidClass": Reason("needs you", "The Instance's class cannot be used.", "Correct what the message names."),
    "ReleaseNotFound": Reason("tried again", "There is no such Release.", "Create it, or correct `spec.releaseRef`."),
    "ClassNotFound": Reason("tried again", "There is no such InstanceClass.", "Create it, or correct `spec.classRef`."),
    "ServerNotFound": Reason(
        "tried again", "There is no such Server in the namespace.", "Create it, or correct `spec.serverRef`."
    ),
    "ServerChanged": Reason(
        "needs you", "`serverRef` names another Server than the data lives on.", "Set it back; data is not moved."
    ),
    "NoServerFits": Reason(
        "tried again", "No Server matches, is ready and has room.", "Add or free one; widen `spec.placement.selector`."
    ),
    "NoDomain": Reason("needs you", "Neither `spec.domains` nor the Server's `baseDomain`.", "Set one of the two."),
    "TlsNotServed": Reason(
        "needs you",
        "A domain wants TLS that the Server's proxy does not offer.",
        "The domain's `tls`, or the Server's `proxy.tls.mode`.",
    ),
    "SettingNotSupported": Reason(
        "needs you", "The Release takes no such setting.", "Remove it from `spec.settings.values`."
    ),
    "FeaturesNotSupported": Reason("needs you", "The Release takes no features.", "Remove `spec.features`."),
    "ModulesNotSupported": Reason("needs you", "The Release takes no modules.", "Remove `spec.modules`."),
    "EnvNameInvalid": Reason(
        "needs you", "A Secret's key is no valid name of a variable.", "Rename it, or take single keys by `spec.env`."
    ),
    "SecretRefused": Reason(
        "needs you",
        "A field refers to a Secret that is not for this tenant: a Server's key, another Instance's credentials, a "
        "Secret of another organisation or of the platform. Nothing is changed; what serves goes on.",
        "Refer to another Secret; the labels that decide are in ADR 0030.",
    ),
    "CredentialsTaken": Reason(
        "needs you",
        "The Secret with the name of the Instance's credentials is somebody else's: retained for another orgCode, a "
        "Server's key, or one that says nothing.",
        "Give the Instance another name; or label the Secret with its orgCode, or delete it, as the message says.",
    ),
    # Step preflight
    "ReleaseYanked": Reason("needs you", "The Release was withdrawn.", "Choose another in `spec.releaseRef`."),
    "UpgradeNotAllowed": Reason(
        "needs you", "The Release cannot be reached from the present version.", "Go by a Release in between."
    ),
    "OrgCodeTaken": Reason("needs you", "Another Instance of this Server has the orgCode.", "Choose another."),
    "DomainTaken": Reason("needs you", "Another Instance has the domain.", "Remove it from one of the two."),
    "Unschedulable": Reason(
        "needs you", "The Server takes no new Instances.", "`schedulable: true`, or another Server."
    ),
    "ServerFull": Reason(
        "needs you",
        "The Server holds as many Instances as it may.",
        "Raise `capacity.maxInstances`, or another Server.",
    ),
    "InsufficientMemory": Reason(
        "needs you", "The class needs more memory than is left.", "A smaller class or another Server."
    ),
    "VolumeTaken": Reason(
        "needs you", "A volume of this name belongs to somebody else.", "Remove it, or choose another orgCode."
    ),
    "NetworkTaken": Reason(
        "needs you", "A network of this name belongs to somebody else.", "Remove it, or choose another orgCode."
    ),
    "DataVolumeMissing": Reason(
        "needs you",
        "A volume with the tenant's data is gone or was replaced. It is never made anew.",
        "Restore it from a backup as the message says.",
    ),
    "CredentialsMissing": Reason(
        "needs you", "There is data, but the Secret with its password is gone.", "Restore the Secret."
    ),
    # The other steps
    "ImageMoved": Reason(
        "needs you",
        "A tag on the host means another image than the one that runs. With `InSync=True` it is only told.",
        "Give the Release a digest or another tag.",
    ),
    "NetworkPoolExhausted": Reason(
        "needs you", "No free network for the tenant.", "Widen `capacity.networkPool` of the Server."
    ),
    "InfrastructureUnhealthy": Reason(
        "tried again",
        "Database or cache is not healthy.",
        "The container's last log lines in the message; memory of the class.",
    ),
    "BackupFailed": Reason(
        "tried again",
        "The dump before a change has failed, which is tried again; or a Backup, which is not. The tenant serves on.",
        "The message; most often the disk. Create another Backup.",
    ),
    "MigrateFailed": Reason(
        "tried again",
        "The migration of a first deploy has failed.",
        "The log lines in the message; then a new Release or a new try.",
    ),
    "BootstrapFailed": Reason(
        "tried again", "Organisation and admin could not be made.", "The log lines in the message."
    ),
    "AppUnhealthy": Reason(
        "tried again",
        "A new container does not become healthy.",
        "The log lines in the message; `update.healthTimeout`.",
    ),
    "CrashLooping": Reason(
        "needs you",
        "A container ends again and again; it is not fought any more.",
        "The log lines in the message; then edit, or set `reconcile-requested-at`.",
    ),
    "VerifyFailed": Reason(
        "tried again",
        "No good answer through the proxy.",
        "The message has the status; the domain, the role that is exposed.",
    ),
    # Backups and Restores
    "DiskFull": Reason(
        "needs you",
        "The host's disk is full. What a Backup had written was removed; what a Restore had unpacked, too.",
        "`docker image prune` on the host, fewer Backups, or a larger disk; then another Backup or Restore.",
    ),
    "TookTooLong": Reason("needs you", "A copy did not end within its time.", "Look at the host's disk and load."),
    "ChecksumMismatch": Reason(
        "needs you",
        "A file of the Backup is not as it was written, or is gone. Nothing was changed.",
        "Restore another Backup; look at the host's disk.",
    ),
    "InstanceStopped": Reason(
        "needs you",
        "The Instance is suspended or archived, so its database does not run.",
        "Let it run again, then create the Backup or Restore once more.",
    ),
    "InstanceDeleting": Reason("needs you", "The Instance is being deleted.", "Create it again first."),
    "BackupOfAnotherInstance": Reason(
        "needs you", "The Backup holds another tenant's data.", "Name a Backup of the same Instance."
    ),
    "BackupNotCompleted": Reason(
        "needs you", "The Backup has not ended, or has failed.", "Create another Restore, of one that is Completed."
    ),
    "BackupElsewhere": Reason(
        "needs you", "The Backup's files are on another Server than the Instance.", "A Backup made on its own Server."
    ),
    "ReleaseDiffers": Reason(
        "needs you",
        "The Release that serves cannot take over the data of the one that made the Backup.",
        "Set `spec.releaseRef` to the Backup's Release first, then create another Restore.",
    ),
    # A change that failed
    "UpgradeRolledBack": Reason(
        "needs you",
        "The change has failed, and what served before serves.",
        "`status.rollback` and the log lines; then edit the spec, or set `reconcile-requested-at` to try it again.",
    ),
    "UpgradeFailed": Reason(
        "needs you",
        "The change has failed and there is no way back, or none is wanted (`update.rollback: false`).",
        "As for UpgradeRolledBack.",
    ),
    "RestoreFailed": Reason(
        "needs you",
        "After a change that failed: the database could not be set back. Of a Restore: the message says what became of"
        " the data.",
        "The dump is in the volume for backups: restore it by hand, or the Backup once more, as the log lines tell.",
    ),
    "PreviousVersionLost": Reason(
        "needs you",
        "What served before cannot be made any more.",
        "Go back to the Release and spec that served, or try the new one again.",
    ),
}

_HEAD = """# Conditions and their reasons

Written by `python -m dotmac_operator.core.reasons`; a test compares it with the code.

`kubectl describe` shows them with a message that names the object and the remedy; here is every one that there is.
`status.conditions[].observedGeneration` says which edit it is about.

## Conditions

| condition | true means |
|---|---|
"""

_TITLES: dict[State, str] = {
    "good": "All is well",
    "moving": "Under way: wait",
    "waits": "Waits for a word or a time",
    "tried again": "Tried again by itself: look when it lasts",
    "needs you": "Needs somebody",
}
_TAIL = """
A reason of the last two tables moves between them: what fails at a first deploy is tried again with growing pauses, and
the same failure of a change ends in its rollback. The condition `Stalled` tells which. Another try without an edit:

```sh
kubectl annotate instance acme --overwrite platform.dotmac.io/reconcile-requested-at="$(date +%s)"
```
"""


def page() -> str:
    """The whole page, in Markdown."""
    return _HEAD + "\n".join(_lines()) + "\n" + _TAIL


def _lines() -> Iterator[str]:
    for type_, meaning in CONDITIONS.items():
        yield f"| `{type_}` | {meaning}. |"
    for state, title in _TITLES.items():
        yield f"\n## {title}\n"
        yield from ("| reason | means | what to do |", "|---|---|---|")
        for name, reason in sorted(REASONS.items()):
            if reason.state == state:
                yield f"| `{name}` | {reason.meaning} | {reason.remedy} |"


if __name__ == "__main__":
    sys.stdout.write(page())
