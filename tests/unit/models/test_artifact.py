"""An artifact is immutable, named by its content, and whole or refused."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trilane.errors import ModelError, SetupError
from trilane.models.artifact import Artifact, load, make_golden, pack
from trilane.models.signature import Matrix, Signature

FILES = ("model.onnx", "golden.json", "manifest.json")


def content(artifact: Artifact) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifact.path.iterdir()}


def overwrite(path: Path, value: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(value)


def test_an_artifact_loads_as_it_was_packed(root: Path, parts: dict[str, Any]) -> None:
    packed = pack(root, **parts)
    assert packed.path == root / "models" / "late" / packed.digest[:16]
    assert load(packed.path) == packed
    assert packed.manifest.metrics == parts["metrics"]
    assert packed.model_path.read_bytes() == parts["files"]["model.onnx"]
    assert packed.golden() == parts["golden"]


def test_the_same_parts_give_the_same_digest_and_bytes_anywhere(tmp_path: Path, parts: dict[str, Any]) -> None:
    first, second = pack(tmp_path / "1", **parts), pack(tmp_path / "2", **parts)
    assert first.digest == second.digest
    assert content(first) == content(second)


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"metrics": {"auc": 0.3}}, {"code": "d" * 64}, {"training_set": "u" * 64}]
)
def test_another_part_gives_another_digest(root: Path, parts: dict[str, Any], change: dict[str, Any]) -> None:
    assert pack(root, **parts).digest != pack(root, **{**parts, **change}).digest


def test_packing_twice_changes_nothing(root: Path, parts: dict[str, Any]) -> None:
    first = pack(root, **parts)
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    assert pack(root, **parts) == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def test_many_may_pack_the_same_at_once(root: Path, parts: dict[str, Any]) -> None:
    threads = [threading.Thread(target=pack, args=(root,), kwargs=parts) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (folder,) = (root / "models" / "late").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_the_files_are_read_only(root: Path, parts: dict[str, Any]) -> None:
    assert {path.stat().st_mode & 0o222 for path in pack(root, **parts).path.iterdir()} == {0}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.3, 0.7, 1])
def test_a_flipped_bit_is_found_and_the_file_named(root: Path, parts: dict[str, Any], name: str, place: float) -> None:
    artifact = pack(root, **parts)
    damaged = bytearray((artifact.path / name).read_bytes())
    damaged[int(place * (len(damaged) - 1))] ^= 1
    overwrite(artifact.path / name, bytes(damaged))
    with pytest.raises(ModelError, match=f"{name}: the artifact is damaged.*train the model again"):
        load(artifact.path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [None, 0, 100])
def test_a_missing_or_cut_file_is_named(root: Path, parts: dict[str, Any], name: str, kept: int | None) -> None:
    artifact = pack(root, **parts)
    if kept is None:
        (artifact.path / name).unlink()
    else:
        overwrite(artifact.path / name, (artifact.path / name).read_bytes()[:kept])
    with pytest.raises(ModelError, match=name):
        load(artifact.path)


def test_no_artifact_at_all_is_said_so(root: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.json.*No such file"):
        load(root / "models" / "late" / "0123456789abcdef")


def test_a_manifest_of_an_unknown_version_is_refused(root: Path, parts: dict[str, Any]) -> None:
    artifact = pack(root, **parts)
    manifest = msgspec.json.decode((artifact.path / "manifest.json").read_bytes())
    newer = msgspec.json.encode({**manifest, "version": 99, "unheard_of": True}, order="sorted")
    folder = artifact.path.rename(artifact.path.with_name(hashlib.sha256(newer).hexdigest()[:16]))
    overwrite(folder / "manifest.json", newer)
    with pytest.raises(ModelError, match=r"manifest\.json: its version is 99.*Upgrade"):
        load(folder)


def test_a_profile_beside_it_is_no_part_of_the_artifact(root: Path, parts: dict[str, Any]) -> None:
    artifact = pack(root, **parts)
    (artifact.path / "profile.json").write_text("{}")
    assert load(artifact.path) == artifact


def test_golden_rows_keep_every_bit_and_end_with_one_of_nan() -> None:
    rows = np.array([[-0.0, np.inf], [1e-45, np.nan]], np.float32)
    golden = make_golden(rows, lambda matrix: np.arange(len(matrix)) / 3)
    read = msgspec.json.decode(msgspec.json.encode(golden), type=type(golden))
    assert read.matrix()[:2].tobytes() == rows.tobytes()
    assert np.isnan(read.matrix()[2]).all()
    assert read.expected().tolist() == [0, 1 / 3, 2 / 3]


def test_golden_rows_are_at_most_32(rows: Matrix) -> None:
    assert len(make_golden(rows, lambda matrix: np.zeros(len(matrix))).expected()) == 32


def test_parts_that_do_not_fit_are_refused(root: Path, parts: dict[str, Any]) -> None:
    for change, reason in (
        ({"features": parts["features"][::-1]}, "not the inputs"),
        ({"name": "../late"}, "cannot be the name"),
        ({"signature": Signature.of(["a"]), "features": parts["features"][:1]}, "golden rows do not fit"),
    ):
        with pytest.raises(ModelError, match=reason):
            pack(root, **{**parts, **change})
    assert list(root.iterdir()) == []


def test_a_disk_that_does_not_take_it_is_the_operators_matter(root: Path, parts: dict[str, Any]) -> None:
    (root / "models").write_text("a file where a folder should be")
    with pytest.raises(SetupError, match="cannot be written"):
        pack(root, **parts)
