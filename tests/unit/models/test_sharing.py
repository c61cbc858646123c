"""Weights are laid out once, mapped by whoever opens them, and made anew if a byte of them is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graphs import mlp
from trilane.errors import ModelError, SetupError
from trilane.models.runtime.session import SHARED_BYTES, is_shared
from trilane.models.runtime.sharing import laid_out
from trilane.models.runtime.tensors import OnnxTensors
from trilane.models.stamps import Stamps

WIDTH = 256


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(mlp(width=WIDTH, layers=2))
    return path


def test_a_laid_out_model_answers_with_the_same_bits_as_the_one_it_was_made_from(tmp_path: Path, model: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    place = laid_out(model, tmp_path / "weights", Stamps(None))
    assert (place.parent / "weights.bin").stat().st_size >= 2 * WIDTH * WIDTH * 4
    (here,), (there,) = (OnnxTensors(str(one), shared=True).run([rows]) for one in (model, place))
    assert here.tobytes() == there.tobytes()


def test_it_is_made_once(tmp_path: Path, model: Path) -> None:
    first = laid_out(model, tmp_path / "weights", Stamps(None))
    inode = first.stat().st_ino
    assert laid_out(model, tmp_path / "weights", Stamps(None)) == first
    assert first.stat().st_ino == inode
    assert [one.name for one in (tmp_path / "weights").iterdir()] == [first.parent.name]


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_one_with_a_wrong_byte_is_made_anew_and_who_has_it_mapped_keeps_it(
    tmp_path: Path, model: Path, damage: str
) -> None:
    rows = np.ones((1, WIDTH), np.float32)
    place = laid_out(model, tmp_path / "weights", Stamps(None))
    before = OnnxTensors(str(place), shared=True)
    (expected,) = before.run([rows])
    weights = place.parent / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[5] ^= 255
    weights.unlink()  # whoever changes it in place changes what others read: that is why it cannot be written
    if damage != "gone":
        weights.write_bytes(content if damage == "flipped" else content[:100])
    again = OnnxTensors(str(laid_out(model, tmp_path / "weights", Stamps(None))), shared=True)
    assert again.run([rows])[0].tobytes() == before.run([rows])[0].tobytes() == expected.tobytes()
    assert len(list((tmp_path / "weights").iterdir())) == 1


def test_it_cannot_be_written(tmp_path: Path, model: Path) -> None:
    place = laid_out(model, tmp_path / "weights", Stamps(None))
    assert {one.stat().st_mode & 0o222 for one in place.parent.iterdir() if one.name != "manifest.json"} == {0}


def test_another_model_is_laid_out_elsewhere(tmp_path: Path, model: Path) -> None:
    first = laid_out(model, tmp_path / "weights", Stamps(None))
    model.write_bytes(mlp(width=WIDTH, layers=2, seed=1))
    assert laid_out(model, tmp_path / "weights", Stamps(None)) != first


def test_a_model_that_cannot_be_opened_leaves_nothing(tmp_path: Path, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:1_000])
    with pytest.raises(ModelError, match="cannot open"):
        laid_out(model, tmp_path / "weights", Stamps(None))
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_disk_that_does_not_take_it_is_told(tmp_path: Path, model: Path) -> None:
    (tmp_path / "weights").write_bytes(b"")
    with pytest.raises(SetupError, match="cannot be laid out"):
        laid_out(model, tmp_path / "weights", Stamps(None))


def test_small_models_are_not_worth_sharing(tmp_path: Path, model: Path) -> None:
    assert not is_shared(str(model))
    assert not is_shared(b"")
    assert is_shared(bytes(SHARED_BYTES))
