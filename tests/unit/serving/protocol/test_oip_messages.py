"""The messages of the gRPC service, held against Triton's own."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from trilane.serving.protocol.oip_messages import MESSAGES, METHODS, STREAMED, message

# KServe's answers of the repository have fields that Triton's do not.
OWN = {"RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"}


def _fields(descriptor: Any) -> dict[str, tuple[object, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else "",
            field.containing_oneof.name if field.containing_oneof else "",
        )
        for field in descriptor.fields
    }


def _theirs(name: str) -> Any:
    outer, _, inner = name.partition(".")
    for module in (service_pb2, model_config_pb2):
        found = module.DESCRIPTOR.message_types_by_name.get(outer)
        if found is not None:
            return found.nested_types_by_name[inner] if inner else found
    return pytest.fail(f"Triton has no message {name}")


@pytest.mark.parametrize("name", sorted(set(MESSAGES) - OWN))
def test_every_field_is_tritons(name: str) -> None:
    theirs = _fields(_theirs(name))
    ours = _fields(message(name).DESCRIPTOR)
    assert {field: theirs.get(field) for field in ours} == ours


def test_the_data_types_are_numbered_as_tritons() -> None:
    ours = message("ModelInput").DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name
    theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values_by_name
    assert {name: one.number for name, one in ours.items()} == {name: one.number for name, one in theirs.items()}


def test_every_method_is_tritons_with_its_messages() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name in METHODS:
        method = service.methods_by_name[name]
        assert (method.input_type.name, method.output_type.name) == (f"{name}Request", f"{name}Response")
        assert not method.client_streaming
        assert not method.server_streaming
    assert service.methods_by_name[STREAMED].client_streaming
