"""The messages of `inference.GRPCInferenceService`, as Triton and KServe know them, made when this module is imported.

Laws: names, numbers and types are those of Triton's `grpc_service.proto` and `model_config.proto`, of which parts that
are never sent are left out; the messages are in a pool of their own, so that they never meet another library's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from trilane.errors import ContractError

__all__ = ["MESSAGES", "METHODS", "SERVICE", "STREAMED", "message", "reader"]

SERVICE = "inference.GRPCInferenceService"
_PACKAGE = "inference"

# A message, and its fields as `type name=number`: * for repeated, map:V for a map of texts to V, @ for the one-of it
# belongs to. A type that is none of protobuf's own is a message, or the enumeration DataType.
_TENSOR = "string name=1, string datatype=2, *int64 shape=3, map:InferParameter parameters=4, "
_LOADED = "string repository_name=1, string model_name=2, map:ModelRepositoryParameter parameters=3"
MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live=1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready=1",
    "ModelReadyRequest": "string name=1, string version=2",
    "ModelReadyResponse": "bool ready=1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name=1, string version=2, *string extensions=3",
    "ModelMetadataRequest": "string name=1, string version=2",
    "ModelMetadataResponse": "string name=1, *string versions=2, string platform=3, "
    "*ModelMetadataResponse.TensorMetadata inputs=4, *ModelMetadataResponse.TensorMetadata outputs=5",
    "ModelMetadataResponse.TensorMetadata": "string name=1, string datatype=2, *int64 shape=3",
    "InferParameter": "bool bool_param=1@parameter_choice, int64 int64_param=2@parameter_choice, "
    "string string_param=3@parameter_choice, double double_param=4@parameter_choice, "
    "uint64 uint64_param=5@parameter_choice",
    "InferTensorContents": "*bool bool_contents=1, *int32 int_contents=2, *int64 int64_contents=3, "
    "*uint32 uint_contents=4, *uint64 uint64_contents=5, *float fp32_contents=6, *double fp64_contents=7, "
    "*bytes bytes_contents=8",
    "ModelInferRequest": "string model_name=1, string model_version=2, string id=3, map:InferParameter parameters=4, "
    "*ModelInferRequest.InferInputTensor inputs=5, *ModelInferRequest.InferRequestedOutputTensor outputs=6, "
    "*bytes raw_input_contents=7",
    "ModelInferRequest.InferInputTensor": f"{_TENSOR}InferTensorContents contents=5",
    "ModelInferRequest.InferRequestedOutputTensor": "string name=1, map:InferParameter parameters=2",
    "ModelInferResponse": "string model_name=1, string model_version=2, string id=3, map:InferParameter parameters=4, "
    "*ModelInferResponse.InferOutputTensor outputs=5, *bytes raw_output_contents=6",
    "ModelInferResponse.InferOutputTensor": f"{_TENSOR}InferTensorContents contents=5",
    "ModelStreamInferResponse": "string error_message=1, ModelInferResponse infer_response=2",
    "ModelConfigRequest": "string name=1, string version=2",
    "ModelConfigResponse": "ModelConfig config=1",
    "ModelConfig": "string name=1, string platform=2, int32 max_batch_size=4, *ModelInput input=5, "
    "*ModelOutput output=6, ModelDynamicBatching dynamic_batching=11@scheduling_choice, "
    "map:ModelParameter parameters=14, string backend=17",
    "ModelTensorReshape": "*int64 shape=1",
    "ModelInput": "string name=1, DataType data_type=2, *int64 dims=4, ModelTensorReshape reshape=5, bool optional=8",
    "ModelOutput": "string name=1, DataType data_type=2, *int64 dims=3, ModelTensorReshape reshape=5",
    "ModelDynamicBatching": "*int32 preferred_batch_size=1, uint64 max_queue_delay_microseconds=2",
    "ModelParameter": "string string_value=1",
    "ModelStatisticsRequest": "string name=1, string version=2",
    "ModelStatisticsResponse": "*ModelStatistics model_stats=1",
    "ModelStatistics": "string name=1, string version=2, uint64 last_inference=3, uint64 inference_count=4, "
    "uint64 execution_count=5, InferStatistics inference_stats=6, *InferBatchStatistics batch_stats=7",
    "InferStatistics": "StatisticDuration success=1, StatisticDuration fail=2, StatisticDuration queue=3, "
    "StatisticDuration compute_input=4, StatisticDuration compute_infer=5, StatisticDuration compute_output=6, "
    "StatisticDuration cache_hit=7, StatisticDuration cache_miss=8",
    "InferBatchStatistics": "uint64 batch_size=1, StatisticDuration compute_input=2, "
    "StatisticDuration compute_infer=3, StatisticDuration compute_output=4",
    "StatisticDuration": "uint64 count=1, uint64 ns=2",
    "RepositoryIndexRequest": "string repository_name=1, bool ready=2",
    "RepositoryIndexResponse": "*RepositoryIndexResponse.ModelIndex models=1",
    "RepositoryIndexResponse.ModelIndex": "string name=1, string version=2, string state=3, string reason=4",
    # Of these two, KServe's clients send the model as field 1, and read the two fields of the answer, which Triton's
    # do not know and pass over.
    "RepositoryModelLoadRequest": _LOADED,
    "RepositoryModelLoadResponse": "string model_name=1, bool isLoaded=2",
    "RepositoryModelUnloadRequest": _LOADED,
    "RepositoryModelUnloadResponse": "string model_name=1, bool isUnloaded=2",
    "ModelRepositoryParameter": "bool bool_param=1@parameter_choice, int64 int64_param=2@parameter_choice, "
    "string string_param=3@parameter_choice, bytes bytes_param=4@parameter_choice",
}

# The methods that are asked once and answer once; their messages are called as they are.
METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
STREAMED = "ModelStreamInfer"
_WHOLE = ("INVALID", "BOOL", *(f"{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)))
_NUMBERED = (*_WHOLE, "FP16", "FP32", "FP64", "STRING", "BF16")

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="trilane_inference.proto", package=_PACKAGE, syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(_NUMBERED):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.partition(".")
        made[name] = made[outer].nested_type.add(name=inner) if inner else file.message_type.add(name=outer)
        for field in filter(None, fields.split(", ")):
            _add(made[name], f".{_PACKAGE}.{name}", field)
    return file


def _add(message: descriptor_pb2.DescriptorProto, path: str, text: str) -> None:
    kind, _, rest = text.partition(" ")
    name, _, number = rest.partition("=")
    number, _, choice = number.partition("@")
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if kind.startswith("map:"):
        entry = message.nested_type.add(name="".join(word.capitalize() for word in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add(entry, "", "string key=1")
        _add(entry, "", f"{kind[4:]} value=2")
        field.type_name, field.label = f"{path}.{entry.name}", _Field.LABEL_REPEATED
        return
    if kind.startswith("*"):
        kind, field.label = kind[1:], _Field.LABEL_REPEATED
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = f".{_PACKAGE}.{kind}"
        field.type = _Field.TYPE_ENUM if kind == "DataType" else _Field.TYPE_MESSAGE
    if choice:
        if not message.oneof_decl:
            message.oneof_decl.add(name=choice)
        field.oneof_index = 0


def _classes() -> Iterator[tuple[str, type[Message]]]:
    pool = DescriptorPool()
    pool.Add(_file())
    for name in MESSAGES:
        yield name, message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


_CLASSES = dict(_classes())


def message(name: str) -> type[Message]:
    """The class of a message."""
    return _CLASSES[name]


def reader(name: str) -> Callable[[bytes], Message | ContractError]:
    """What reads a message, and gives the refusal of bytes that are none: what a reader raises, gRPC takes for our
    fault, and writes into the log with a traceback.
    """
    read = message(name).FromString

    def found(sent: bytes) -> Message | ContractError:
        try:
            return read(sent)
        except DecodeError as error:
            what, remedy = f"this is no {name}: {error}", f"Send what {SERVICE} describes"
            return ContractError(what, where="request", remedy=remedy, status=400)

    return found
