"""Step 6: the database is brought to the new version before any container of that version serves."""

from dotmac_operator.core import names
from dotmac_operator.core.actions import StopContainer
from dotmac_operator.core.steps.base import Step, Verdict, act, one_shot, skipped
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    spec = view.desired.migrate
    if spec is None:
        return skipped("the Release has no migrate command")
    stale = [c for c in view.of_role(names.MIGRATE) if c.state == "running" and view.container(spec) != c]
    if stale:
        return act(*(StopContainer("the spec has changed since", c.name, grace=30) for c in stale))
    return one_shot(view, spec, view.desired.migrate_timeout, "MigrateFailed")


STEP = Step("migrate", check)
