"""CertificateReady is told where TLS is spoken, and judged by the request through the proxy."""

from tests.kits.tenant import desired_of, met_record, met_view, server_of

from dotmac_crds.instance import InstanceStatus
from dotmac_operator.core.conditions import find
from dotmac_operator.core.plan import plan
from dotmac_operator.core.status import Situation, compute
from dotmac_operator.core.view import View


def status_of(view: View) -> InstanceStatus:
    return compute(view.record, Situation(1, view.now, view=view, plan=plan(view)))


def tls_view(*, verified: bool) -> View:
    desired = desired_of(server=server_of(proxy={"tls": {"mode": "Internal"}}))
    record = met_record(desired)
    shots = [shot for shot in record.one_shots or () if verified or shot.name != "verify"]
    return met_view(desired, record=record.model_copy(update={"one_shots": shots}))


def test_without_tls_there_is_no_such_condition() -> None:
    assert find(status_of(met_view()).conditions, "CertificateReady") is None


def test_true_only_once_the_proxy_has_answered_by_tls() -> None:
    before = find(status_of(tls_view(verified=False)).conditions, "CertificateReady")
    after = find(status_of(tls_view(verified=True)).conditions, "CertificateReady")
    assert before is not None and (before.status, before.reason) == ("False", "NotServed")
    assert after is not None and (after.status, after.reason) == ("True", "Served")
