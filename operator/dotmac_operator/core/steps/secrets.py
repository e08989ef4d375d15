"""Step 2: the tenant's secrets, generated once into a Kubernetes Secret."""

from dotmac_operator.core.actions import ClaimCredentials, GenerateSecrets
from dotmac_operator.core.steps.base import MET, Step, Verdict, act
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    present = view.credential_keys or frozenset()
    secret, org_code = view.desired.tenant.credentials, view.desired.org_code
    missing = tuple(key for key in view.desired.generated if key.key not in present)
    if missing:
        reason = "the Secret does not exist" if view.credential_keys is None else "keys are missing"
        return act(GenerateSecrets(reason, secret, org_code, missing))
    if not view.credentials_claimed:
        return act(ClaimCredentials("it does not say whose it is", secret, org_code))
    return MET


STEP = Step("secrets", check)
