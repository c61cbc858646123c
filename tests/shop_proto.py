"""The descriptors of a message that has a field of every kind, as `protoc` would write them."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, message_factory, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

__all__ = ["DESCRIPTORS", "FILE", "Fact"]

_T = descriptor_pb2.FieldDescriptorProto
FILE = descriptor_pb2.FileDescriptorProto(
    name="shop/fact.proto",
    package="shop",
    syntax="proto3",
    dependency=["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"],
)
_kind = FILE.enum_type.add(name="Kind")
for _number, _name in ((0, "NONE"), (1, "NEW"), (-5, "OLD")):
    _kind.value.add(name=_name, number=_number)
_address = FILE.message_type.add(name="Address")
_address.field.add(name="city", number=1, type=_T.TYPE_STRING, label=1)
_address.field.add(name="inner", number=2, type=_T.TYPE_MESSAGE, type_name=".shop.Address", label=1)
_fact = FILE.message_type.add(name="Fact")
_fact.oneof_decl.add(name="how")
_fact.oneof_decl.add(name="_opt")
for _number, (_name, _type, _of) in enumerate(
    [
        ("id", _T.TYPE_STRING, ""),
        ("at", _T.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
        ("x", _T.TYPE_DOUBLE, ""),
        ("y", _T.TYPE_FLOAT, ""),
        ("i", _T.TYPE_INT64, ""),
        ("u", _T.TYPE_UINT64, ""),
        ("s", _T.TYPE_SINT32, ""),
        ("f", _T.TYPE_SFIXED32, ""),
        ("n", _T.TYPE_INT32, ""),
        ("b", _T.TYPE_BOOL, ""),
        ("kind", _T.TYPE_ENUM, ".shop.Kind"),
        ("wrapped", _T.TYPE_MESSAGE, ".google.protobuf.DoubleValue"),
        ("address", _T.TYPE_MESSAGE, ".shop.Address"),
        ("cash", _T.TYPE_INT64, ""),
        ("card", _T.TYPE_STRING, ""),
        ("opt", _T.TYPE_INT64, ""),
        ("tags", _T.TYPE_STRING, ""),
        ("raw", _T.TYPE_BYTES, ""),
    ],
    1,
):
    _field = _fact.field.add(
        name=_name, number=_number, type=_type, type_name=_of or None, label=3 if _name == "tags" else 1
    )
    if _name in ("cash", "card"):
        _field.oneof_index = 0
    if _name == "opt":
        _field.oneof_index, _field.proto3_optional = 1, True

DESCRIPTORS: bytes = descriptor_pb2.FileDescriptorSet(file=[FILE]).SerializeToString()
_pool = DescriptorPool()
for _module in (timestamp_pb2, wrappers_pb2):
    _pool.Add(descriptor_pb2.FileDescriptorProto.FromString(_module.DESCRIPTOR.serialized_pb))
_pool.Add(FILE)
Fact = message_factory.GetMessageClass(_pool.FindMessageTypeByName("shop.Fact"))
