"""Containers that crash again and again, and are restarted by Docker's own policy each time.

They are not fought: Docker waits twice as long after each crash, up to a minute, which is all the backoff that helps.
What somebody stops from outside is no crash; Docker does not restart it, and it is started again at once.
"""

from collections.abc import Iterable

from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.steps.base import Verdict, failed
from dotmac_operator.core.view import CRASH_LIMIT, CRASH_WINDOW, View


def crash_loop(view: View, pairs: Iterable[tuple[ContainerSpec, ContainerFact]]) -> Verdict | None:
    """The verdict about the first container that crashes again and again; None when there is none."""
    for spec, container in pairs:
        if view.crashes(container):
            within = f"{CRASH_LIMIT} restarts or more within {CRASH_WINDOW / 60:.0f} min"
            return failed("CrashLooping", f"{spec.role} crashes again and again ({within})", container.name, final=True)
    return None
