"""A file over which a library dies costs a process that was made for it."""

from __future__ import annotations

import random
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import xgboost

from trilane.errors import ModelError
from trilane.models.runtime.trial import try_file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, draw = tmp_path_factory.mktemp("boosters"), np.random.default_rng(0)
    rows = draw.normal(size=(200, 8))
    labels = (rows[:, 0] > 0).astype(int)
    found = {"lightgbm": folder / "model.txt", "xgboost": folder / "model.ubj"}
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    lightgbm.train(settings, lightgbm.Dataset(rows, labels), 5).save_model(found["lightgbm"])
    xgboost.train({"nthread": 1}, xgboost.DMatrix(rows, labels), 5).save_model(found["xgboost"])
    return found


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_a_sound_file_is_tried_once(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    try_file(kind, files[kind], "0" * 64, notes=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    try_file(kind, Path("nowhere"), "0" * 64, notes=tmp_path)  # its digest says that it was
    with pytest.raises(ModelError, match="cannot be read"):
        try_file(kind, Path("nowhere"), "1" * 64, notes=tmp_path)


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("damage", ["cut at a third", "cut at a half", "overwritten"])
def test_a_damaged_file_is_a_model_error(files: dict[str, Path], kind: str, damage: str, tmp_path: Path) -> None:
    content = bytearray(files[kind].read_bytes())
    if damage == "overwritten":
        draw = random.Random(3)
        for _ in range(60):
            content[draw.randrange(len(content) // 2)] = 57
    else:
        del content[len(content) // (3 if damage == "cut at a third" else 2) :]
    broken = tmp_path / files[kind].name
    broken.write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot open|died over it|not opened within"):
        try_file(kind, broken, "0" * 64, notes=tmp_path / "notes")
    assert not (tmp_path / "notes").exists()
