"""Step 2: the tenant's secrets, generated once into a Kubernetes Secret."""

from dotmac_operator.core.actions import GenerateSecrets
from dotmac_operator.core.steps.base import MET, Step, Verdict, act
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    present = view.credential_keys or frozenset()
    missing = tuple(key for key in view.desired.generated if key.key not in present)
    if not missing:
        return MET
    reason = "the Secret does not exist" if view.credential_keys is None else "keys are missing"
    return act(GenerateSecrets(reason, view.desired.tenant.credentials, missing))


STEP = Step("secrets", check)
