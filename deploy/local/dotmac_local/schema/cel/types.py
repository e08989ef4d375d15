"""The CEL types of a schema, so that rules are checked when a definition is stored.

Every object of the schema becomes a message in a descriptor pool, as the compiler takes structs from there only; what
it has no type for (lists of lists, values of any type) is dynamic. Names of fields are those that rules spell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, struct_pb2, timestamp_pb2

from dotmac_local.schema.cel.library import KUBERNETES
from dotmac_local.schema.cel.rules import EXTENSIONS
from dotmac_local.schema.cel.values import spellings
from dotmac_local.schema.node import Node

_Field = descriptor_pb2.FieldDescriptorProto
_TEXT_TYPES = {
    "date-time": "google.protobuf.Timestamp",
    "datetime": "google.protobuf.Timestamp",
    "date": "google.protobuf.Timestamp",
    "duration": "google.protobuf.Duration",
    "byte": "bytes",
}
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int": _Field.TYPE_INT64,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
}
_ANY = "google.protobuf.Value"


@dataclass(frozen=True, slots=True)
class CelType:
    """A type as the compiler's configuration names it."""

    name: str
    parameters: tuple[CelType, ...] = ()

    def lines(self, indent: str) -> Iterator[str]:
        """The type in the YAML of the configuration."""
        yield f"{indent}type_name: {self.name}"
        if self.parameters:
            yield f"{indent}params:"
            for parameter in self.parameters:
                first, *rest = parameter.lines("")
                yield f"{indent}  - {first}"
                yield from (f"{indent}    {line}" for line in rest)


@dataclass
class TypeTable:
    """The types of one schema. `of` and `environment` belong to nodes of that schema."""

    root: Node
    _file: Any = field(init=False)
    _names: dict[int, CelType] = field(init=False, default_factory=dict)
    _pool: Any = field(init=False)

    def __post_init__(self) -> None:
        self._file = descriptor_pb2.FileDescriptorProto(
            name="schema.proto",
            package="schema",
            syntax="proto2",
            dependency=[f"google/protobuf/{name}.proto" for name in ("timestamp", "duration", "struct")],
        )
        self._type_of(self.root, is_object=True)
        self._pool = descriptor_pool.DescriptorPool()
        for module in (timestamp_pb2, duration_pb2, struct_pb2):
            self._pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        self._pool.Add(self._file)

    def environment(self, node: Node, *, old: str) -> Any:
        """The compiler for rules at a node. `old`: "" without oldSelf, "plain", or "optional"."""
        mine = self._names[id(node)]
        variables = {"self": mine}
        if old:
            variables["oldSelf"] = mine if old == "plain" else CelType("optional_type", (mine,))
        lines = ["variables:"]
        for name, kind in variables.items():
            lines += [f"  - name: {name}", *kind.lines("    ")]
        config = cel.NewEnvConfigFromYaml("\n".join(lines) + EXTENSIONS)
        return cel.NewEnv(descriptor_pool=self._pool, config=config, extensions=[KUBERNETES])

    def _type_of(self, node: Node, *, is_object: bool = False) -> CelType:
        made = self._names[id(node)] = self._make(node, is_object or node.embedded)
        return made

    def _make(self, node: Node, is_object: bool) -> CelType:
        if node.int_or_string:
            return CelType(_ANY)
        match node.type:
            case "integer":
                return CelType("int")
            case "number":
                return CelType("double")
            case "boolean":
                return CelType("bool")
            case "string":
                return CelType(_TEXT_TYPES.get(node.raw.get("format", ""), "string"))
            case "array":
                return CelType("list", (self._type_of(node.items) if node.items else CelType("dyn"),))
            case "object":
                return self._object(node, is_object)
            case _:
                return CelType(_ANY)

    def _object(self, node: Node, is_object: bool) -> CelType:
        if node.additional is not None:
            return CelType("map", (CelType("string"), self._type_of(node.additional)))
        if node.open_map:
            return CelType("map", (CelType("string"), CelType("dyn")))
        # Messages below this one are added first, so the name comes from a count of its own.
        fields = {name: self._type_of(child) for name, child in node.properties.items() if name != "metadata"}
        if is_object:
            fields |= {"apiVersion": CelType("string"), "kind": CelType("string"), "metadata": self._metadata()}
        elif "metadata" in node.properties:
            fields["metadata"] = self._type_of(node.properties["metadata"])
        return self._message(fields)

    def _metadata(self) -> CelType:
        """Of an object's metadata, rules see the name only."""
        return self._message({"name": CelType("string"), "generateName": CelType("string")})

    def _message(self, fields: dict[str, CelType]) -> CelType:
        message = self._file.message_type.add(name=f"Type{len(self._file.message_type)}")
        number = 0
        for name, kind in fields.items():
            for written in spellings(name):
                number += 1
                self._add_field(message, written, number, kind)
        return CelType(f"schema.{message.name}")

    def _add_field(self, message: Any, name: str, number: int, kind: CelType) -> None:
        # Names that differ in case only would clash in protobuf's own JSON form, which nobody reads.
        added = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL, json_name=f"field{number}")
        if kind.name == "list" and (element := _plain(kind.parameters[0])):
            added.label = _Field.LABEL_REPEATED
            _set_type(added, element)
        elif kind.name == "map" and (value := _plain(kind.parameters[1])) and _entry_name(name) not in _nested(message):
            entry = message.nested_type.add(name=_entry_name(name))
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
            _set_type(entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL), value)
            added.label = _Field.LABEL_REPEATED
            _set_type(added, CelType(f"schema.{message.name}.{entry.name}"))
        else:
            dynamic = {"list": "google.protobuf.ListValue", "map": "google.protobuf.Struct", "dyn": _ANY}
            _set_type(added, CelType(dynamic.get(kind.name, kind.name)))


def _entry_name(name: str) -> str:
    """What protobuf wants the entries of a map field to be called."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Entry"


def _nested(message: Any) -> set[str]:
    return {nested.name for nested in message.nested_type}


def _plain(kind: CelType) -> CelType | None:
    """The element type of a list or map, when protobuf can hold it there."""
    if kind.name in ("list", "map"):
        return None
    return CelType(_ANY) if kind.name == "dyn" else kind


def _set_type(target: Any, kind: CelType) -> None:
    if kind.name in _SCALARS:
        target.type = _SCALARS[kind.name]
    else:
        target.type, target.type_name = _Field.TYPE_MESSAGE, f".{kind.name}"
