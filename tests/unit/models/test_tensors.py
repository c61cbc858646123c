"""ONNX graphs of any inputs: what is wrong with a question is told as its own fault."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graphs import chosen
from trilane.errors import ContractError
from trilane.models.runtime.tensors import OnnxTensors


def test_axes_of_one_name_and_several_lengths_are_the_fault_of_who_sent_them() -> None:
    runtime = OnnxTensors(chosen())
    x, mask = np.ones((2, 3), np.float32), np.array([[True, False, True]] * 2)
    assert runtime.run([x, mask])[0].tolist() == [[1.0, 0.0, 1.0]] * 2
    with pytest.raises(ContractError, match="the axis 'm' has length 3 in 'x' and 2 in 'mask'") as caught:
        runtime.run([x, mask[:, :2]])
    assert caught.value.remedy
    assert runtime.run([x, mask[:1, :1]])[0].tolist() == x.tolist()  # the graph can do with it, whatever it says
    runtime.close()
