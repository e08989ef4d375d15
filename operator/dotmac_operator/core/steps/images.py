"""Step 4: the images are on the host before anything is stopped for them."""

from dotmac_operator.core.actions import PullImage
from dotmac_operator.core.desired import containers
from dotmac_operator.core.steps.base import MET, Step, Verdict, act, blocked
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    missing = [reference for reference in view.desired.images if not _present(view, reference)]
    if missing:
        return act(*(PullImage("the host does not have it", reference) for reference in missing))
    return _replaced(view) or MET


def _present(view: View, reference: str) -> bool:
    return reference in view.facts.images or view.pins.get(reference) in view.facts.images


def _replaced(view: View) -> Verdict | None:
    """A container is to be made anew, its image is gone, and its tag points to another one by now."""
    for spec in containers(view.desired):
        pin = view.pins.get(spec.image)
        if view.container(spec) is None and view.moved(spec.image) and pin not in view.facts.images:
            return blocked(
                "ImageMoved",
                f"image {spec.image} is {view.facts.images[spec.image].id} now, and {pin}, which the Instance runs, is"
                f" gone from Server {view.server.name}: load that one again, or give the Release a digest or another"
                " tag to move to what is there",
                after=30.0,
            )
    return None


STEP = Step("images", check)
