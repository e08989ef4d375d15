"""The base model and the bounded field types that every kind is made of."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "platform.dotmac.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/finalizer"


def rule(expression: str, message: str, *, path: str | None = None) -> dict[str, str]:
    """One CEL rule of a schema node. `message` names the remedy; `path` points at the field to blame."""
    made = {"rule": expression, "message": message}
    if path is not None:
        made["fieldPath"] = path
    return made


def schema(rules: list[dict[str, str]] | None = None, **extra: Any) -> dict[str, Any]:
    """JSON-schema extras of a model or a field: CEL rules and `x-kubernetes-*` words."""
    made: dict[str, Any] = {"x-kubernetes-" + key.replace("_", "-"): value for key, value in extra.items()}
    if rules:
        made["x-kubernetes-validations"] = rules
    return made


def list_map(*keys: str) -> dict[str, Any]:
    """A list whose items are unique by `keys`: merged item by item, duplicates refused by the API server."""
    return schema(list_type="map", list_map_keys=list(keys))


LIST_SET = schema(list_type="set")
LIST_ATOMIC = schema(list_type="atomic")


class Model(BaseModel):
    """camelCase outside, snake_case inside; unknown fields are refused (the API server has pruned them before)."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    def to_wire(self) -> dict[str, Any]:
        """The camelCase JSON object, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# RFC 1123 label and subdomain; a Kubernetes object name is a subdomain.
LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN)]
ShortName = Annotated[str, Field(min_length=1, max_length=40, pattern=LABEL)]
Hostname = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN)]
Port = Annotated[int, Field(ge=1, le=65535, json_schema_extra={"format": "int32"})]
EnvName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
EnvValue = Annotated[str, Field(max_length=4096)]
SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
ImageReference = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[a-z0-9][-a-zA-Z0-9._:/@]*$")]
AbsolutePath = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[^\x00-\x1f:]*$")]
Argument = Annotated[str, Field(max_length=4096)]
Argv = Annotated[list[Argument], Field(max_length=64, json_schema_extra=LIST_ATOMIC)]
Seconds = Annotated[int, Field(ge=1, le=86400, json_schema_extra={"format": "int32"})]
Email = Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$")]
Text = Annotated[str, Field(max_length=1024)]
Word = Annotated[str, Field(max_length=253)]
Timestamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]


def _integer_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _quantity(pattern: str) -> Any:
    """`cpu: 1` and `cpu: "500m"` are both usual in YAML; inside, a quantity is always text."""
    # The pattern is said here too: pydantic leaves it out of the schema of a field with a validator before it.
    extra = {"pattern": pattern, **schema(int_or_string=True)}
    return Annotated[
        str, BeforeValidator(_integer_as_text), Field(max_length=32, pattern=pattern, json_schema_extra=extra)
    ]


# Kubernetes quantities, as much of them as makes sense for a container's limits.
if TYPE_CHECKING:
    Cpu = str
    Memory = str
else:
    Cpu = _quantity(r"^([0-9]{1,9}(\.[0-9]{1,3})?|[0-9]{1,9}m)$")
    Memory = _quantity(r"^[0-9]{1,15}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?$")

# Linux capabilities that Docker may add back after everything was dropped.
Capability = Literal[
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
]  # fmt: skip


class LocalSecretRef(Model):
    """A Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""


class SecretKeyRef(Model):
    """One key of a Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""
    key: SecretKey
    """Key within the Secret's data."""


class NameRef(Model):
    """An object by name: in the same namespace, or cluster-scoped where its kind is."""

    name: ObjectName
    """Name of the object."""


class DriftRecord(Model):
    """The last difference that was repaired without a change of the spec."""

    what: Text
    """What was different."""
    repaired_at: Timestamp
    """When it was repaired."""


class FoundDrift(Model):
    """A difference without a change of the spec, while it is being repaired."""

    kind: Word
    """Its kind, as the metric counts it."""
    what: Text
    """What is different."""


Repairing = Annotated[list[FoundDrift], Field(max_length=32, json_schema_extra=list_map("kind"))]


class Condition(Model):
    """One aspect of an object's state, in the form of metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """What is judged, such as Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    """Why, in one CamelCase word for programs."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """Why, for people, with the remedy where there is one."""
    last_transition_time: Timestamp
    """When the status last flipped."""
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = 0
    """The generation of the spec that this was judged for."""


Conditions = Annotated[list[Condition], Field(max_length=32, json_schema_extra=list_map("type"))]
ObservedGeneration = Annotated[int, Field(ge=-1, json_schema_extra={"format": "int64"})]
