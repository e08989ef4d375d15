"""One Instance beside one reading of its host: what its own pass would find, and nothing done about it."""

from collections.abc import Iterable
from dataclasses import replace

from dotmac_operator.core import names, proof
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.facts import HostFacts, ImageFact
from dotmac_operator.core.plan import plan
from dotmac_operator.core.proof import Finding, not_proven
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import Sent, nothing
from dotmac_operator.reconcile.context import NotYet, Secrets
from dotmac_operator.reconcile.onepass import Pass, facts_of
from dotmac_operator.reconcile.store import Instance


class Reading:
    """A host as it was when it was read, and its images, each asked for once."""

    def __init__(self, inventory: Inventory, sent: Sent = nothing) -> None:
        """Reads it now; `sent` as in `Engine.survey`. Raises HostError."""
        self.inventory = inventory
        self._facts = inventory.read_anew(sent)
        self._images: dict[str, ImageFact | None] = dict(self._facts.images)

    def facts(self, images: Iterable[str] = ()) -> HostFacts:
        """Raises HostError."""
        wanted = tuple(images)
        for reference in wanted:
            if reference not in self._images:
                self._images[reference] = self.inventory.image(reference)
        found = {reference: image for reference in wanted if (image := self._images[reference]) is not None}
        return replace(self._facts, images=found)


def not_comparable(instance: Instance) -> Finding | None:
    """Why an Instance is not looked at at all; None: it is."""
    name = instance.ref.name
    if instance.deleting:
        return not_proven(name, "Deleting", "it is being deleted")
    if instance.spec is None:
        return not_proven(name, "InvalidSpec", f"{instance.error}: is the operator as new as the CRDs?")
    if instance.paused:
        return not_proven(name, "Paused", f"annotation {names.PAUSED} is set: nothing is changed")
    if not instance.held or not instance.status.server:
        return not_proven(name, "Progressing", "it was not taken up yet")
    return None


class Comparison(Pass):
    """What a pass over an Instance would find."""

    def finding(self, reading: Reading, secrets: Secrets) -> Finding:
        """By the Secrets and the host as they were read.

        Raises:
            HostError, ClusterError
        """
        instance, services, name = self.instance, self.services, self.instance.ref.name
        unfit = not_comparable(instance)
        if unfit is not None:
            return unfit
        assert instance.spec is not None  # noqa: S101 - not_comparable has looked
        restoring = services.restoring(instance.key)
        if restoring is not None:
            return not_proven(name, restoring.reason, restoring.message)
        now = services.clock()
        try:
            context = services.contexts.load(instance, instance.spec, now, secrets)
        except NotYet as problem:
            return not_proven(name, problem.reason, str(problem))
        except SpecError as error:
            return not_proven(name, error.reason, error.message)
        server = replace(services.contexts.server_view(context.server), ready=True)  # its own pass has just found so
        view = self.view(
            context, server, facts_of(reading, context.desired.images, instance.status), instance.status, now
        )
        made = plan(view)
        told = services.status(instance, self.situation(view, made))
        return proof.judge(name, made, outdated=bool(self.kept.drift) or told != instance.status)
