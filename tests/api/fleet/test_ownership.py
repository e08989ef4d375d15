"""What a field manager owns, read back from managedFields as a configuration to apply again."""

from typing import Any

from dotmac_api.gateway.edge import field_name
from dotmac_api.gateway.ownership import other_owners, owned
from dotmac_api.instances.schemas import FIELD_NAMES

OURS = {
    "f:metadata": {"f:annotations": {"f:a": {}}},
    "f:spec": {
        "f:orgName": {},
        "f:features": {".": {}, "f:x.y": {}},
        "f:modules": {'v:"gl"': {}},
        "f:env": {'k:{"name":"B"}': {".": {}, "f:name": {}, "f:value": {}}, 'k:{"name":"A"}': {".": {}, "f:name": {}}},
        "f:settings": {},
        "f:gone": {},
    },
}


def obj(**managed: Any) -> dict[str, Any]:
    entries = [
        {
            "manager": name,
            "operation": "Apply",
            "fieldsV1": fields,
            **({"subresource": "status"} if name == "s" else {}),
        }
        for name, fields in managed.items()
    ]
    return {
        "apiVersion": "platform.dotmac.io/v1alpha1",
        "kind": "Instance",
        "metadata": {"name": "n", "namespace": "ns", "annotations": {"a": "1", "b": "2"}, "managedFields": entries},
        "spec": {
            "orgName": "x",
            "releaseRef": {"name": "r"},
            "features": {"x.y": True, "other": True},
            "modules": ["core", "gl"],
            "env": [{"name": "A", "value": "theirs"}, {"name": "B", "value": "1"}, {"name": "C"}],
            "settings": {"currency": "NGN", "values": {"k": "v"}},
        },
    }


def test_only_what_is_ours_is_taken_in_the_order_of_the_object() -> None:
    made = owned(obj(ours=OURS, theirs={"f:spec": {"f:releaseRef": {"f:name": {}}}}), "ours")
    assert made == {
        "apiVersion": "platform.dotmac.io/v1alpha1",
        "kind": "Instance",
        "metadata": {"name": "n", "namespace": "ns", "annotations": {"a": "1"}},
        "spec": {
            "orgName": "x",
            "features": {"x.y": True},
            "modules": ["gl"],
            "env": [{"name": "A"}, {"name": "B", "value": "1"}],
            "settings": {"currency": "NGN", "values": {"k": "v"}},
        },
    }


def test_nothing_is_ours_of_what_others_made() -> None:
    made = owned(obj(theirs=OURS), "ours")
    assert "spec" not in made and made["metadata"] == {"name": "n", "namespace": "ns"}


def test_other_owners_are_named() -> None:
    found = obj(ours=OURS, kubectl={"f:spec": {"f:modules": {'v:"core"': {}}, "f:settings": {}}}, s={"f:spec": {}})
    assert other_owners(found, ("f:spec", "f:modules", 'v:"core"'), "ours") == ["kubectl"]
    assert other_owners(found, ("f:spec", "f:modules", 'v:"gl"'), "ours") == []
    # It owns the whole of an atomic field, so also what is inside.
    assert other_owners(found, ("f:spec", "f:settings", "f:currency"), "ours") == ["kubectl"]
    assert other_owners(found, ("f:spec", "f:orgName"), "ours") == []


def test_fields_have_the_names_of_the_request() -> None:
    assert field_name("spec.releaseRef.name", FIELD_NAMES) == "body.release"
    assert field_name("spec.domains[0].host", FIELD_NAMES) == "body.domains[0].host"
    assert field_name("spec.settings.values", FIELD_NAMES) == "body.settings"
    assert field_name("spec.settings.sectorType", FIELD_NAMES) == "body.sector_type"
    assert field_name("spec.env[1].secretKeyRef.name", FIELD_NAMES) == "body.env[1].secret_key_ref.name"
    assert field_name("spec.unheardOf", FIELD_NAMES) == "spec.unheardOf"
