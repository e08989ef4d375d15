"""Every difference from the recordings that is allowed, with its reason. Anything else is a fault."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.conformance.target import Target
from tests.conformance.transcript import Step


@dataclass(frozen=True)
class Allowed:
    """Lines of difference that match `line`, in steps whose scenario and name match. `only` limits it to one server."""

    line: str
    reason: str
    scenario: str = ""
    step: str = ""
    only: str = ""


ALLOWED = (
    # Words that other libraries put differently; reason, field and code are compared all the same.
    Allowed(r"^\.message:", "the words of Go's JSON decoder", "03-create", "not JSON"),
    Allowed(r"^\.message:", "several causes come in Go's random order of maps", "04-validation", "several at once"),
    Allowed(r"^\.message:", "the words of Go's JSON decoder about a broken token", "09-list", "bad continue"),
    # What a server says about itself.
    Allowed(
        r"^\.(major|minor|emulation\w+|minCompat\w+|git\w+|buildDate|goVersion|compiler|platform):",
        "every server is its own build",
        step="version",
    ),
    Allowed(r"^\.git|^\.goVersion|^\.compiler|^\.platform", "every server is its own build", "15-rbac"),
    Allowed(r"serverAddress:", "every server has its own address", "12-discovery", "api"),
    Allowed(r"^\.status\.userInfo\.", "the administrator's own name and groups", "11-core", "who am I"),
    Allowed(
        r"^\.status\.nonResourceRules",
        "the paths that a server's own default roles open",
        "15-rbac",
        "rules of its own",
    ),
    # The recording is cut to what matters here, or longer than what this server has.
    Allowed(r"^\.items: \d+ items recorded", "the recording keeps two groups only", "12-discovery"),
    Allowed(r"^\.paths\..* not recorded", "the recording keeps three documents only", "12-discovery"),
    Allowed(
        r"^\.paths\.version: missing", "there is no document of /version here; no client reads it", only="embedded"
    ),
    Allowed(r"\.description: recorded", "descriptions are shorter here", "13-openapi"),
    Allowed(r"parameters: \d+ items", "experimental parameters, and two of old kinds of deletion", "13-openapi"),
    Allowed(r"^\.components\.schemas\.io\.k8s\S+ not recorded", "the recording keeps the group's own", "13-openapi"),
    # What the real one does for reasons of its own.
    Allowed(
        r"^\[1\]\.object\.metadata\.resourceVersion:",
        "a bookmark is as new as the cluster, where others write too",
        "10-watch",
        "sendInitialEvents: ADDED then the annotated BOOKMARK",
        only="real",
    ),
    Allowed(
        r"^\.(kind|apiVersion): not recorded",
        "the real one's timeout filter forgets kind and apiVersion of its Status",
        "09-list",
        "a future resourceVersion",
        only="embedded",
    ),
)


# Definitions that the embedded server takes, or refuses, unlike a real one, by name.
NO_COST = "the cost of rules is not estimated: what is too expensive for a real server is taken here"
DEFINITIONS = {
    "unknown keyword": "unknown keywords inside a schema are kept, not reported",
    "cel format": "the format library of Kubernetes' CEL is missing: its results are optional values of its own making",
    "cel two types of object compared: too expensive": NO_COST,
    "cel msgExpr": NO_COST,
    "cel strings": NO_COST,
    "cel cost list": NO_COST,
    "cel cost nested": NO_COST,
    "cel cost all": NO_COST,
    "cel cost 3": NO_COST,
    "cel cost exists_one key": NO_COST,
    "cel cost map": NO_COST,
}


def allowed(step: Step, line: str, target: Target) -> bool:
    server = "embedded" if target.embedded else "real"
    return any(
        re.search(entry.line, line)
        and entry.scenario in ("", step.scenario)
        and entry.step in ("", step.about)
        and entry.only in ("", server)
        for entry in ALLOWED
    )
