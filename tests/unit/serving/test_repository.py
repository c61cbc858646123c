"""Many models in one process: loaded when asked for, kept while there is room, swapped whole, each failing alone."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.graphs import graph, mlp, table
from trilane.errors import ContractError, DefinitionError, ModelError, UnavailableError
from trilane.models.tensor import Tensor
from trilane.serving.admission import Admission
from trilane.serving.inference import Inference, Question
from trilane.serving.policy import Caller, Policy
from trilane.serving.repository import ModelRepository

WIDTH = 4
MIB = 1 << 20
NEGATE, DOUBLE = graph("Neg", "FP32", (-1, WIDTH)), graph("Abs", "FP32", (-1, WIDTH))
PYTHON = """
import os, time
def predict(inputs):
    if inputs["x"][0, 0] == 13:
        os._exit(1)
    return {"y": inputs["x"] + 1}
"""
HANGING = """
import time
def predict(inputs):
    while inputs["x"][0, 0] == 13:
        time.sleep(60)
    return {"y": inputs["x"] + 1}
"""
SPECS = """
[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 4]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [-1, 4]
"""
STRICT = """
import numpy as np
def predict(inputs):
    if not np.isfinite(inputs["x"]).all():
        raise ValueError("the input contains NaN or infinity")
    return {"y": inputs["x"] + 1}
"""
MOODY = """
import time
from trilane.errors import ContractError
def predict(inputs):
    first = inputs["x"][0, 0]
    if first == 11:
        raise ValueError("a mood")
    if first == 12:
        raise ContractError("twelve is no number of ours", where="x")
    if first == 17:
        time.sleep(600)
    return {"y": inputs["x"] + 1}
"""
DAMAGES = ("cut", "empty", "text", "gone", "circle", "huge header", "two files", "bad options")
Test = Callable[[ModelRepository], Awaitable[None]]


def put(folder: Path, name: str, content: bytes | str, *, options: str = "", file: str = "model.onnx") -> Path:
    path = folder / "models" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(".draft")
    draft.write_bytes(content if isinstance(content, bytes) else content.encode())
    draft.replace(path)
    if options:
        (folder / "models" / name / "model.toml").write_text(options)
    return path


def on_loop(folder: Path, test: Test, *, budget: int = 1 << 30, policy: Policy | None = None) -> None:
    async def run() -> None:
        repository = open_repository(folder, budget, policy)
        try:
            await test(repository)
        finally:
            for name in folder.glob("models/*"):
                if name.name in repository:
                    entry = repository._find(name.name)
                    await repository._leave(entry)
            repository.close()

    asyncio.run(run())


def open_repository(folder: Path, budget: int = 1 << 30, policy: Policy | None = None) -> ModelRepository:
    loop, admission = asyncio.get_running_loop(), Admission(policy)
    return ModelRepository(folder / "models", state=folder / "state", budget=budget, loop=loop, admission=admission)


def question(model: str, *rows: float, version: str = "", deadline: float = math.inf, **more: Any) -> Question:
    values = np.array([[row] * WIDTH for row in rows], np.float32)
    return Question(model, [Tensor("x", "FP32", values)], version, deadline=deadline, **more)


async def ask(repository: ModelRepository, model: str, *rows: float, version: str = "", **more: Any) -> list[float]:
    answer = await repository.infer(question(model, *(rows or (1.0,)), version=version, **more))
    return first_column(answer)


def first_column(answer: Inference) -> list[float]:
    return [float(row[0]) for row in answer.outputs[0].array]


def test_the_first_question_loads_a_model_and_the_next_ones_find_it(tmp_path: Path) -> None:
    put(tmp_path, "negate", NEGATE)

    async def test(repository: ModelRepository) -> None:
        assert [(one.name, one.state, one.loaded) for one in repository.index()] == [("negate", "READY", False)]
        assert await ask(repository, "negate", 1, 2) == [-1, -2]
        assert repository.ready("negate").loaded
        assert await ask(repository, "negate", 3) == [-3]
        (told,) = repository.statistics("negate")
        assert (told.inferences, told.succeeded, told.failed) == (3, 2, 0)
        about = await repository.about("negate")
        assert (about.platform, about.versions, about.max_rows) == ("onnxruntime_onnx", ("1",), 4_096)
        assert repository.settings("negate")["memory_bytes"] != 0

    on_loop(tmp_path, test)


def test_questions_that_come_while_a_model_loads_wait_for_one_load_and_are_answered_together(tmp_path: Path) -> None:
    put(tmp_path, "negate", NEGATE)

    async def test(repository: ModelRepository) -> None:
        asked = [repository.infer(question("negate", float(at), explain=True)) for at in range(20)]
        answers = await asyncio.gather(*asked)
        assert [first_column(answer) for answer in answers] == [[-float(at)] for at in range(20)]
        assert repository._entries["negate"].slots["1"].loads == 1
        assert max(int(answer.parameters["batch_requests"]) for answer in answers) > 1

    on_loop(tmp_path, test)


def test_a_version_that_is_loaded_for_the_first_time_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    put(tmp_path, "negate", NEGATE)

    async def run() -> None:
        state, loop = tmp_path / "state", asyncio.get_running_loop()
        repository = ModelRepository(
            tmp_path / "models", state=state, budget=MIB, loop=loop, loaded=lambda: told.append("loaded")
        )
        for _ in range(2):
            assert await ask(repository, "negate", 1.0) == [-1]
            await repository.unload("negate")
            await repository.load("negate")
        await repository.unload("negate")
        repository.close()

    asyncio.run(run())
    assert told == ["loaded"]


def test_a_name_that_is_none_is_told_with_those_there_are(tmp_path: Path) -> None:
    put(tmp_path, "negate", NEGATE)

    async def test(repository: ModelRepository) -> None:
        for name in ("nobody", "../negate", "", "negate/1", "a" * 300, "\x00"):
            with pytest.raises(DefinitionError, match="negate") as refused:
                await ask(repository, name)
            assert refused.value.facts["status"] == 404
        with pytest.raises(DefinitionError, match="no version '7'"):
            await ask(repository, "negate", version="7")

    on_loop(tmp_path, test)


def test_a_model_that_comes_later_is_found_and_one_without_a_folder_is_no_fault(tmp_path: Path) -> None:
    async def test(repository: ModelRepository) -> None:
        assert repository.index() == []
        assert len(repository) == 0
        put(tmp_path, "negate", NEGATE)
        assert await ask(repository, "negate") == [-1]
        assert len(repository) == 1

    on_loop(tmp_path, test)


def test_of_several_versions_the_highest_answers_and_others_can_be_asked_for(tmp_path: Path) -> None:
    for version, content in (("1", NEGATE), ("2", DOUBLE), ("10", NEGATE)):
        put(tmp_path, "m", content, file=f"{version}/model.onnx")

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "m") == [-1]
        assert (await repository.infer(question("m", 1.0))).version == "10"
        assert await ask(repository, "m", -5, version="2") == [5]
        assert [one.version for one in repository.index()] == ["10", "2", "1"]

    on_loop(tmp_path, test)


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "text", "gone", "circle", "huge header", "two files", "bad options"]
)
def test_a_file_that_cannot_be_opened_makes_its_model_unavailable_with_the_reason(tmp_path: Path, damage: str) -> None:
    path = put(tmp_path, "broken", mlp(width=64, layers=2))
    put(tmp_path, "whole", NEGATE)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"this is a picture")
    elif damage == "huge header":
        path.write_bytes(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + content[:100])
    elif damage in ("gone", "circle"):
        path.unlink()
        if damage == "circle":
            path.symlink_to(path)
    elif damage == "two files":
        put(tmp_path, "broken", "tree", file="model.txt")
    else:
        put(tmp_path, "broken", content, options="batchin = true")

    async def test(repository: ModelRepository) -> None:
        for _ in range(2):
            with pytest.raises(ModelError):
                await ask(repository, "broken")
            assert await ask(repository, "whole") == [-1]
        state = repository.ready("broken")
        assert state.state == "UNAVAILABLE"
        assert state.reason
        assert [(one.name, one.state) for one in repository.index()] == [("broken", "UNAVAILABLE"), ("whole", "READY")]
        (tmp_path / "models/broken/model.toml").unlink(missing_ok=True)
        (tmp_path / "models/broken/model.txt").unlink(missing_ok=True)
        put(tmp_path, "broken", NEGATE)
        assert await ask(repository, "broken") == [-1]

    on_loop(tmp_path, test)


def test_a_folder_that_is_a_circle_of_links_hides_no_other(tmp_path: Path) -> None:
    put(tmp_path, "whole", NEGATE)
    (tmp_path / "models" / "circle").symlink_to(tmp_path / "models" / "circle")

    async def test(repository: ModelRepository) -> None:
        assert [(one.name, one.state) for one in repository.index()] == [("circle", "UNAVAILABLE"), ("whole", "READY")]
        with pytest.raises(ModelError):
            await ask(repository, "circle")

    on_loop(tmp_path, test)


def test_a_load_of_changed_files_swaps_the_model_and_drops_no_question(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "m") == [-1]
        answers: list[float] = []
        stop = False

        async def keep_asking() -> None:
            while not stop:
                answers.extend(await ask(repository, "m", 7))

        asking = [asyncio.create_task(keep_asking()) for _ in range(5)]
        for content, expected in ((DOUBLE, 7), (NEGATE, -7), (DOUBLE, 7)):
            put(tmp_path, "m", content)
            await repository.load("m")
            assert await ask(repository, "m", 7) == [expected]
        stop = True
        await asyncio.gather(*asking)
        assert set(answers) == {7.0, -7.0}
        assert repository._entries["m"].slots["1"].loads == 4

    on_loop(tmp_path, test)


def test_a_load_of_files_that_did_not_change_does_nothing(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        for _ in range(3):
            await repository.load("m")
        assert repository._entries["m"].slots["1"].loads == 1

    on_loop(tmp_path, test)


def test_a_load_that_fails_leaves_the_former_one_answering_and_says_why(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "m") == [-1]
        put(tmp_path, "m", NEGATE[:50])
        with pytest.raises(ModelError):
            await repository.load("m")
        assert await ask(repository, "m") == [-1]
        state = repository.ready("m")
        assert (state.state, "cannot open" in state.reason) == ("READY", True)

    on_loop(tmp_path, test)


def test_a_new_version_that_is_broken_leaves_the_former_one_answering_even_after_a_restart(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE, file="1/model.onnx")

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "m") == [-1]
        put(tmp_path, "m", DOUBLE[:50], file="2/model.onnx")
        with pytest.raises(ModelError):
            await repository.load("m")
        assert (await repository.infer(question("m", 1.0))).version == "1"
        states = {one.version: one.state for one in repository.index()}
        assert states == {"2": "UNAVAILABLE", "1": "READY"}

    async def after(repository: ModelRepository) -> None:
        assert (await repository.infer(question("m", 1.0))).version == "1"
        put(tmp_path, "m", DOUBLE, file="2/model.onnx")
        await repository.load("m")
        assert (await repository.infer(question("m", 1.0))).version == "2"

    on_loop(tmp_path, test)
    on_loop(tmp_path, after)


def test_an_unloaded_model_answers_those_who_asked_and_refuses_until_it_is_loaded(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        await ask(repository, "m")
        asked = [asyncio.create_task(ask(repository, "m", float(at))) for at in range(5)]
        await asyncio.sleep(0)
        await repository.unload("m")
        assert await asyncio.gather(*asked) == [[-float(at)] for at in range(5)]
        with pytest.raises(UnavailableError, match="it was unloaded"):
            await ask(repository, "m")
        assert [(one.state, one.loaded) for one in repository.index()] == [("UNAVAILABLE", False)]

    async def after(repository: ModelRepository) -> None:
        with pytest.raises(UnavailableError, match="it was unloaded"):
            await ask(repository, "m")
        await repository.load("m")
        assert await ask(repository, "m") == [-1]

    on_loop(tmp_path, test)
    on_loop(tmp_path, after)


def test_what_one_process_of_a_server_is_told_the_others_do(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)

    async def test(one: ModelRepository) -> None:
        other = open_repository(tmp_path)
        assert await ask(one, "m") == await ask(other, "m") == [-1]
        put(tmp_path, "m", DOUBLE)
        await one.load("m")
        while await ask(other, "m") != [1]:
            await asyncio.sleep(0)
        await one.unload("m")
        with pytest.raises(UnavailableError, match="it was unloaded"):
            await ask(other, "m")
        await other.load("m")
        assert await ask(one, "m") == [1]
        other.close()

    on_loop(tmp_path, test)


def test_a_version_that_another_process_loaded_answers_where_none_was_loaded_before(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE, file="1/model.onnx")

    async def test(repository: ModelRepository) -> None:
        other = open_repository(tmp_path)
        put(tmp_path, "m", DOUBLE, file="2/model.onnx")
        await other.load("m")
        assert await ask(repository, "m", 3) == await ask(other, "m", 3) == [3]
        await other._leave(other._find("m"))
        other.close()

    on_loop(tmp_path, test)


def test_the_model_that_was_not_asked_for_longest_makes_room_and_pinned_ones_stay(tmp_path: Path) -> None:
    content = mlp(width=512, layers=1)  # 1 MiB
    for name in ("a", "b", "c", "d"):
        put(tmp_path, name, content, options="pinned = true" if name == "a" else "")

    async def test(repository: ModelRepository) -> None:
        rows = Tensor("x", "FP32", np.ones((1, 512), np.float32))
        for name in ("a", "b", "c", "b"):
            await repository.infer(Question(name, [rows]))
        repository._room.budget = repository._room.taken
        await repository.infer(Question("d", [rows]))
        loaded = {one.name for one in repository.index() if one.loaded}
        assert {"a", "d"} <= loaded
        assert "c" not in loaded
        await repository.infer(Question("c", [rows]))  # and it comes back
        assert repository.ready("c").loaded

    on_loop(tmp_path, test)


def test_a_model_larger_than_the_room_beside_pinned_ones_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "m", mlp(width=600, layers=1))

    async def test(repository: ModelRepository) -> None:
        with pytest.raises(ModelError, match="models_mib"):
            await ask(repository, "m")

    on_loop(tmp_path, test, budget=MIB)


def test_warm_models_are_loaded_when_the_server_starts(tmp_path: Path) -> None:
    put(tmp_path, "warm", NEGATE, options="warm = true")
    put(tmp_path, "cold", NEGATE)

    async def test(repository: ModelRepository) -> None:
        while not repository.ready("warm").loaded:
            await asyncio.sleep(0)
        assert not repository.ready("cold").loaded

    on_loop(tmp_path, test)


def test_golden_rows_are_checked_before_anybody_is_answered(tmp_path: Path) -> None:
    golden = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [1, 2, 3, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, WIDTH], "data": [[-1, -2, -3, -4]]}],
    }
    put(tmp_path, "m", NEGATE)
    put(tmp_path, "m", msgspec.json.encode(golden), file="golden.json")

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "m") == [-1]
        put(tmp_path, "m", DOUBLE)
        with pytest.raises(ModelError, match=r"golden rows is \[1.0, 2.0, 3.0, 4.0\] instead of \[-1.0"):
            await repository.load("m")
        assert await ask(repository, "m") == [-1]
        put(tmp_path, "m", b'{"inputs": 3}', file="golden.json")
        with pytest.raises(ModelError, match="golden"):
            await repository.load("m")

    on_loop(tmp_path, test)


def test_wrong_inputs_are_refused_with_their_path_and_cost_nobody_else(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE, options="max_rows = 10")
    bad = {
        r"inputs\[0\].name": [Tensor("z", "FP32", np.ones((1, WIDTH), np.float32))],
        r"inputs\[0\].datatype": [Tensor("x", "INT64", np.ones((1, WIDTH), np.int64))],
        r"inputs\[0\].shape": [Tensor("x", "FP32", np.ones((1, 3), np.float32))],
        "takes 10 rows": [Tensor("x", "FP32", np.ones((11, WIDTH), np.float32))],
        "0 rows": [Tensor("x", "FP32", np.ones((0, WIDTH), np.float32))],
        "inputs": [],
    }

    async def test(repository: ModelRepository) -> None:
        for told, inputs in bad.items():
            with pytest.raises(ContractError, match=told):
                await repository.infer(Question("m", inputs))
        with pytest.raises(ContractError, match=r"outputs\[0\].name"):
            await repository.infer(question("m", 1.0, outputs=["w"]))
        with pytest.raises(ContractError, match=r"outputs\[1\].name: .* twice"):
            await repository.infer(question("m", 1.0, outputs=["y", "y"]))
        assert await ask(repository, "m") == [-1]

    on_loop(tmp_path, test)


def test_nan_in_an_answer_costs_the_one_who_asked_for_it_and_may_be_let_pass(tmp_path: Path) -> None:
    put(tmp_path, "strict", NEGATE)
    put(tmp_path, "lenient", NEGATE, options="nan = true")

    async def test(repository: ModelRepository) -> None:
        asked = [ask(repository, "strict", value) for value in (1.0, math.nan, 2.0)]
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert (first, third) == ([-1], [-2])
        assert isinstance(second, ContractError)
        assert math.isnan((await ask(repository, "lenient", math.nan))[0])

    on_loop(tmp_path, test)


def test_nan_that_the_model_makes_of_finite_numbers_is_its_own_fault(tmp_path: Path) -> None:
    put(tmp_path, "root", graph("Sqrt", "FP32", (-1, WIDTH)))

    async def test(repository: ModelRepository) -> None:
        asked = [ask(repository, "root", value) for value in (4.0, -4.0, -math.inf)]
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert first == [2]
        assert isinstance(second, ModelError)
        assert isinstance(third, ContractError)

    on_loop(tmp_path, test)


def test_what_onnx_runtime_calls_an_invalid_argument_is_the_fault_of_who_sent_it(tmp_path: Path) -> None:
    put(tmp_path, "table", table([10.0, 20.0, 30.0]))

    async def test(repository: ModelRepository) -> None:
        async def row(number: int) -> float:
            asked = Question("table", [Tensor("x", "INT64", np.array([number]))])
            return float((await repository.infer(asked)).outputs[0].array[0])

        first, second, third = await asyncio.gather(row(0), row(3), row(2), return_exceptions=True)
        assert (first, third) == (10, 30)
        assert isinstance(second, ContractError)
        assert "out of data bounds" in second.what

    on_loop(tmp_path, test)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_who_sends_no_finite_numbers_to_a_model_that_fails_then_opens_its_breaker_for_nobody(
    tmp_path: Path, value: float
) -> None:
    for name, options in (("strict", ""), ("lenient", "nan = true\n")):
        put(tmp_path, name, STRICT, options=f"{options}{SPECS}", file="model.py")

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "strict", 1) == [2]
        for _ in range(60):
            wrong, right = await asyncio.gather(
                ask(repository, "strict", value), ask(repository, "strict", 2), return_exceptions=True
            )
            assert isinstance(wrong, ContractError)
            assert "contains NaN" in wrong.what
            assert right == [3]
        assert repository._entries["strict"].slots["1"].breaks == 0
        with pytest.raises(ModelError, match="contains NaN"):
            await ask(repository, "lenient", value)

    on_loop(tmp_path, test)


def test_a_question_that_cannot_be_in_time_is_refused_before_any_work(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        with pytest.raises(UnavailableError, match="still being loaded"):
            await ask(repository, "m", deadline=time.perf_counter() - 1)
        await ask(repository, "m")
        with pytest.raises(UnavailableError, match="deadline passed") as caught:
            await ask(repository, "m", deadline=time.perf_counter() - 1)
        assert caught.value.facts["overload"]  # 429, for no 5xx tells of too much work
        (told,) = repository.statistics("m")
        assert (told.executions, told.failed) == (1, 2)

    on_loop(tmp_path, test)


def test_a_caller_without_quota_is_refused_before_a_model_is_loaded_for_it(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)
    put(tmp_path, "n", NEGATE, options='tier = "batch"')
    policy = Policy(callers=[Caller("poor", rate=1e-9, burst=2)])

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "m", 1, 2, 3, caller="poor") == [-1, -2, -3]
        with pytest.raises(UnavailableError, match="quota") as refused:
            await ask(repository, "n", caller="poor")
        assert (refused.value.facts["tier"], refused.value.facts["overload"]) == ("batch", True)
        assert not repository.ready("n").loaded
        assert await ask(repository, "n", 1) == [-1]
        assert repository.settings("n")["tier"] == "batch"

    on_loop(tmp_path, test, policy=policy)


def test_shapes_that_differ_behind_the_rows_are_answered_in_one_batch_each_by_its_like(tmp_path: Path) -> None:
    put(tmp_path, "m", graph("Neg", "FP32", (-1, -1)))

    async def test(repository: ModelRepository) -> None:
        asked = [np.full((rows, width), at, np.float32) for at, (rows, width) in enumerate([(1, 2), (3, 5), (2, 2)])]
        answers = await asyncio.gather(
            *(repository.infer(Question("m", [Tensor("x", "FP32", array)])) for array in asked)
        )
        for array, answer in zip(asked, answers, strict=True):
            assert np.array_equal(answer.outputs[0].array, -array)

    on_loop(tmp_path, test)


@pytest.mark.parametrize("options", ["batching = false", ""])
def test_models_without_free_rows_or_without_batching_are_asked_one_by_one(tmp_path: Path, options: str) -> None:
    put(tmp_path, "m", NEGATE if options else graph("Neg", "FP32", (1, WIDTH)), options=options)

    async def test(repository: ModelRepository) -> None:
        asked = [repository.infer(question("m", float(at), explain=True)) for at in range(4)]
        answers = await asyncio.gather(*asked)
        assert {answer.parameters["batch_requests"] for answer in answers} == {1}
        assert (await repository.about("m")).max_rows == 0

    on_loop(tmp_path, test)


def test_a_python_model_runs_apart_and_its_death_costs_one_answer(tmp_path: Path) -> None:
    put(tmp_path, "plus", PYTHON, options=f"instances = 2\n{SPECS}", file="model.py")
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "plus", 1, 2) == [2, 3]
        processes = repository.settings("plus")["processes"]
        assert isinstance(processes, list)
        assert len(set(processes)) == 2
        with pytest.raises(ModelError, match="its process died"):
            await ask(repository, "plus", 13)
        assert await ask(repository, "m") == [-1]
        assert await ask(repository, "plus", 5) == [6]
        await repository.unload("plus")
        for process in processes:
            with pytest.raises(ProcessLookupError):
                os.kill(process, 0)

    on_loop(tmp_path, test)


def test_models_that_hang_leave_the_others_room_however_many_they_are(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        put(tmp_path, name, HANGING, options=f'timeout = "5m"\n{SPECS}', file="model.py")
    put(tmp_path, "plus", PYTHON, options=SPECS, file="model.py")
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        for name in ("one", "two", "three", "plus", "m"):
            assert len(await ask(repository, name, 1)) == 1
        asked = dict[str, list[asyncio.Task[list[float]]]]()
        for name in ("one", "two", "three"):
            deadline = time.perf_counter() + 300
            asked[name] = [asyncio.create_task(ask(repository, name, 13, deadline=deadline)) for _ in range(20)]
            for _ in range(5):
                await asyncio.sleep(0)
        held = {name: sum(not task.done() for task in tasks) for name, tasks in asked.items()}
        assert held == {"one": 10, "two": 5, "three": 2}  # each no more than all of them left free
        refused = [task.exception() for tasks in asked.values() for task in tasks if task.done()]
        assert {str(getattr(error, "facts", {}).get("reason")) for error in refused} == {"full"}
        for number in range(10):
            assert await ask(repository, "m", number) == [-number]
            assert await ask(repository, "plus", number) == [number + 1]
        both = [ask(repository, "m", 1), ask(repository, "plus", 1), ask(repository, "m", 2)]
        assert await asyncio.gather(*both) == [[-1], [2], [-2]]
        waiting = [task for tasks in asked.values() for task in tasks if not task.done()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    on_loop(tmp_path, test, policy=Policy(limit=20))


def test_a_process_that_hangs_or_fails_on_and_on_is_left_alone_until_one_question_finds_it_well(tmp_path: Path) -> None:
    put(tmp_path, "moody", MOODY, options=f'timeout = "300ms"\n{SPECS}', file="model.py")
    put(tmp_path, "m", NEGATE)

    async def test(repository: ModelRepository) -> None:
        async def well_again() -> None:
            while repository.ready("moody").state != "READY":
                await asyncio.sleep(0.01)
            assert await ask(repository, "moody", 1) == [2]

        async def fail_on() -> None:
            for _ in range(60):
                with pytest.raises(ModelError, match="a mood"):
                    await ask(repository, "moody", 11)

        assert await ask(repository, "moody", 1) == [2]
        slot = repository._entries["moody"].slots["1"]
        with pytest.raises(ModelError, match="did not answer within"):
            await ask(repository, "moody", 17)
        assert (slot.breaks, repository.settings("moody")["breaker"]) == (1, "open")
        assert "a call failed after" in repository.ready("moody").reason
        with pytest.raises(UnavailableError, match="its breaker is open") as caught:
            await ask(repository, "moody", 1)
        pause = caught.value.facts["retry_after_s"]
        assert isinstance(pause, float)
        assert 0 < pause <= 1
        assert await ask(repository, "m") == [-1]
        assert "breaker" not in repository.settings("m")
        await asyncio.wait_for(well_again(), 30)
        for _ in range(60):
            with pytest.raises(ContractError, match="no number of ours"):
                await ask(repository, "moody", 12)
        assert slot.breaks == 1
        with pytest.raises(UnavailableError, match="calls failed"):
            await fail_on()
        await asyncio.wait_for(well_again(), 30)
        assert slot.breaks == 2
        await repository.unload("moody")
        assert (slot.breaker, slot.breaks) == (None, 2)

    on_loop(tmp_path, test)


def test_processing_beside_a_model_goes_before_and_after_it(tmp_path: Path) -> None:
    put(tmp_path, "m", NEGATE)
    steps = (
        "def preprocess(inputs):\n    return {'x': inputs['x'] * 10}\ndef postprocess(outputs):\n    return outputs\n"
    )
    put(tmp_path, "m", steps, file="processing.py")

    async def test(repository: ModelRepository) -> None:
        assert await ask(repository, "m", 2) == [-20]

    on_loop(tmp_path, test)


def test_a_model_is_no_longer_one_for_what_the_loop_does_beside_it(tmp_path: Path) -> None:
    put(tmp_path, "negate", NEGATE)

    async def test(repository: ModelRepository) -> None:
        await ask(repository, "negate")
        opened = repository._entries["negate"].slots["1"].opened
        assert opened is not None
        for _ in range(100):
            opened._model_time.observe(1, 1e-5)
            opened.batcher.latency.observe(1, 0.1)  # as many answers take until they are delivered
        assert [await ask(repository, "negate", float(at)) for at in range(20)] == [[-float(at)] for at in range(20)]
        assert not repository._running._threads

    on_loop(tmp_path, test)


def test_a_model_that_takes_long_runs_in_a_thread_until_it_is_quick_again(tmp_path: Path) -> None:
    put(tmp_path, "negate", NEGATE)

    async def test(repository: ModelRepository) -> None:
        await ask(repository, "negate")
        opened = repository._entries["negate"].slots["1"].opened
        assert opened is not None
        for _ in range(200):
            opened._model_time.observe(1, 0.1)
        assert await ask(repository, "negate", 3.0) == [-3]
        assert repository._running._threads
        for _ in range(300):
            assert await ask(repository, "negate", 4.0) == [-4]
        assert opened._model_time.expected(1) < 1e-3

    on_loop(tmp_path, test)


def test_idle_models_have_no_thread_and_no_timer(tmp_path: Path) -> None:
    import threading

    for at in range(30):
        put(tmp_path, f"m{at}", NEGATE)

    async def test(repository: ModelRepository) -> None:
        await asyncio.gather(*(ask(repository, f"m{at}") for at in range(30)))
        assert len([one for one in threading.enumerate() if one.name.startswith("model-")]) <= 4
        assert len(asyncio.all_tasks()) == 1

    on_loop(tmp_path, test)
