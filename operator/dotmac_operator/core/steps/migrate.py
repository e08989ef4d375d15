"""Step 6: the database is brought to the new version before any container of that version serves."""

from dotmac_operator.core.steps.base import Step, Verdict, one_shot, skipped
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    spec = view.desired.migrate
    if spec is None:
        return skipped("the Release has no migrate command")
    return one_shot(view, spec, view.desired.migrate_timeout, "MigrateFailed")


STEP = Step("migrate", check)
