"""Step 8: the organisation and its admin, once."""

from dotmac_operator.core.steps.base import Step, Verdict, one_shot, skipped
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    spec = view.desired.bootstrap
    if spec is None:
        return skipped("the Release has no bootstrap command")
    return one_shot(view, spec, view.desired.bootstrap_timeout, "BootstrapFailed")


STEP = Step("bootstrap", check)
