"""A model of some milliseconds a batch and some more a row, behind an endpoint with a deadline, and a policy."""

import numpy as np

import trilane as tl

WIDTH, LAYERS = 1_024, 160


class Ask:
    user: tl.String
    asked_at: tl.Timestamp
    amount: tl.Float64
    bad: tl.Bool


asks = tl.TableSource("asks", schema=Ask, path="asks.parquet", event_time="asked_at")


@tl.request(inputs={"amount": tl.Float64}, features={"amount": tl.Float64, "square": tl.Float64})
def payment(request):
    return {"amount": request["amount"], "square": request["amount"] ** 2}


def train(rows):
    """A deep network of random weights: what it says does not matter, what it takes does."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    weights = {
        "first": random.normal(0, 0.1, (2, WIDTH)),
        "middle": random.normal(0, 1.2 / WIDTH**0.5, (WIDTH, WIDTH)),
        "last": random.normal(0, 1 / WIDTH**0.5, (WIDTH, 1)),
    }
    nodes = [helper.make_node("MatMul", ["inputs", "first"], ["h0"])]
    for layer in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [f"h{layer}", "middle"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"h{layer + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"h{LAYERS}", "last"], ["out"]))
    nodes.append(helper.make_node("Sigmoid", ["out"], ["score"]))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


deep = tl.Model("deep", features=[payment], spine=asks, label="bad", train=train)
check = tl.Endpoint("check", model=deep, deadline="500ms")
policy = tl.Policy(others=tl.Caller(up_to="critical"))
