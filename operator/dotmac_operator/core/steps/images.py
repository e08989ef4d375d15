"""Step 4: the images are on the host before anything is stopped for them."""

from dotmac_operator.core.actions import PullImage
from dotmac_operator.core.steps.base import MET, Step, Verdict, act
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    missing = [reference for reference in view.desired.images if reference not in view.facts.images]
    if not missing:
        return MET
    return act(*(PullImage("the host does not have it", reference) for reference in missing))


STEP = Step("images", check)
