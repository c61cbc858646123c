"""A model as an immutable, content-addressed folder: weights, what they were made from, and answers to check them by.

    models/<name>/<digest[:16]>/
        model.onnx       the weights; model.txt (LightGBM), model.ubj (XGBoost) or model.pkl (Python) in its place
        code/            (of Python, where it needs any) the author's files
        golden.json      rows, the scores that the runtime gave for them, and where it ran
        manifest.json    signature, features and versions, digests of all inputs and of the files above
        profile.json     (optional, no part of the digest) how fast it was here

Laws: the digest is the SHA-256 of the canonical manifest, which names the digests of the other files, so that any
flipped byte shows; nothing else lies in `code`; the folder is named by the digest; it appears complete or not at all;
the same inputs give the same digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from trilane.errors import ModelError, SetupError
from trilane.models.own_process import ONNX, PYTHON
from trilane.models.signature import Matrix, Scores, Signature
from trilane.models.stamps import Stamps

__all__ = [
    "Artifact",
    "CODE",
    "FeatureColumn",
    "Golden",
    "MODEL_FILES",
    "Manifest",
    "library_versions",
    "load",
    "machine",
    "make_golden",
    "pack",
]

MANIFEST_VERSION = 1
GOLDEN_ROWS = 32
MODEL_FILES: Mapping[str, str] = {
    ONNX: "model.onnx",
    "lightgbm": "model.txt",
    "xgboost": "model.ubj",
    PYTHON: "model.pkl",
}
CODE = "code"
_GOLDEN, _MANIFEST = "golden.json", "manifest.json"
_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_LIBRARIES = ("lightgbm", "numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx")
# Those that a score's last bit may hang on.
_RUN_BY: Mapping[str, tuple[str, ...]] = {
    ONNX: ("onnxruntime",),
    "lightgbm": ("lightgbm",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    PYTHON: ("lightgbm", "numpy", "scikit-learn", "scipy", "xgboost", "xgboost-cpu"),
}


class FeatureColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input column: feature `name` of `view`, as that view's `version` computes it."""

    name: str
    view: str
    version: str


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rows and the scores a runtime gave for them, bit by bit: little-endian float32 and float64 in base64."""

    width: int
    features: bytes
    scores: bytes
    machine: str
    libraries: dict[str, str]

    def matrix(self) -> Matrix:
        """The rows, [n, width]."""
        return np.frombuffer(self.features, "<f4").reshape(-1, self.width).astype(np.float32)

    def expected(self) -> Scores:
        """The score of each row, [n]."""
        return np.frombuffer(self.scores, "<f8").astype(np.float64)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the model is and what it was made from. `training_set` and `code` are digests, `files` too.

    `priors`: what `tl.prior("mean")` answers, by `view.feature`; not written where there is none. `runtime`: what
    executes it; `row_wise`: whether a pickled model may be asked for many rows at once.
    """

    version: int
    name: str
    signature: Signature
    features: tuple[FeatureColumn, ...]
    training_set: str
    code: str
    metrics: dict[str, float]
    libraries: dict[str, str]
    python: str
    files: dict[str, str]
    priors: dict[str, float] = {}
    runtime: str = ONNX
    row_wise: bool = False


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A packed model on disk."""

    path: Path
    digest: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.manifest.name

    @property
    def model_path(self) -> Path:
        """The file that its runtime opens."""
        return self.path / MODEL_FILES[self.manifest.runtime]

    def golden(self) -> Golden:
        """The rows and scores to check a runtime by."""
        return _decoded(self.path / _GOLDEN, Golden)


def machine() -> str:
    """The machine as far as it can change the last bit of a float: its architecture and processor."""
    name = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{platform.machine()} {name}".strip()


def library_versions(names: Iterable[str] = _LIBRARIES) -> dict[str, str]:
    """The installed versions of packages, by default of those that make or run a model."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def make_golden(
    rows: Matrix, predict: Callable[[Matrix], Scores], *, runtime: str = ONNX, missing: bool = True
) -> Golden:
    """The first rows of `rows` and, with `missing`, one of nothing but NaN, with the scores that `predict` gives for
    them as `runtime` executes it.
    """
    matrix = np.ascontiguousarray(rows[: GOLDEN_ROWS - missing], np.float32)
    if missing:
        matrix = np.concatenate([matrix, np.full((1, rows.shape[1]), np.nan, np.float32)])
    scores = predict(matrix)
    return Golden(
        width=matrix.shape[1],
        features=matrix.astype("<f4").tobytes(),
        scores=np.asarray(scores).astype("<f8").tobytes(),
        machine=machine(),
        libraries=library_versions(_RUN_BY[runtime]),
    )


def pack(
    root: Path,
    *,
    name: str,
    files: Mapping[str, bytes],
    signature: Signature,
    features: Sequence[FeatureColumn],
    training_set: str,
    code: str,
    metrics: Mapping[str, float],
    golden: Golden,
    priors: Mapping[str, float] | None = None,
    runtime: str = ONNX,
    row_wise: bool = False,
) -> Artifact:
    """Writes the artifact below `root`/models/`name`, unless it is there; `files` are those that `runtime` opens.

    Raises ModelError if the parts do not fit, SetupError if the disk does not take it.
    """
    _check_fit(name, signature, features, golden)
    files = {**files, _GOLDEN: msgspec.json.encode(golden, order="deterministic")}
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name=name,
        signature=signature,
        features=tuple(features),
        training_set=training_set,
        code=code,
        metrics=dict(metrics),
        libraries=library_versions(),
        python=".".join(map(str, sys.version_info[:3])),
        files={file: _sha256(content) for file, content in files.items()},
        priors=dict(priors or {}),
        runtime=runtime,
        row_wise=row_wise,
    )
    files[_MANIFEST] = msgspec.json.encode(manifest, order="sorted")
    digest = _sha256(files[_MANIFEST])
    path = root / "models" / name / digest[:16]
    if not path.exists():
        try:
            _write(path, files)
        except OSError as error:
            remedy = "Free space or make the folder writable, then pack again"
            raise SetupError(f"the artifact cannot be written: {error}", where=str(path), remedy=remedy) from error
    return load(path)


def load(path: Path, *, verify: bool = True, stamps: Stamps | None = None) -> Artifact:
    """The artifact at `path`; with `verify`, every byte of it is checked: once for each file as it is, with `stamps`.

    Raises ModelError that names the file which is missing, damaged or of an unknown version.
    """
    content = _read(path / _MANIFEST)
    digest = _sha256(content)
    if not digest.startswith(path.name) or len(path.name) != 16:
        raise _damaged(path / _MANIFEST, f"its digest is {digest[:16]}, the folder is called {path.name}")
    version = _decoded(path / _MANIFEST, _Version).version
    if version != MANIFEST_VERSION:
        raise ModelError(
            f"its version is {version}, this Trilane knows {MANIFEST_VERSION}",
            where=str(path / _MANIFEST),
            remedy="Upgrade with `pip install -U trilane`, or train the model again",
        )
    manifest = _decoded(path / _MANIFEST, Manifest)
    for file, expected in manifest.files.items() if verify else ():
        if _file_digest(path / file, stamps or Stamps(None)) != expected:
            raise _damaged(path / file, "its content is not what the manifest says")
    if manifest.runtime not in MODEL_FILES:
        raise ModelError(
            f"this Trilane knows no runtime {manifest.runtime!r}",
            where=str(path / _MANIFEST),
            remedy="Upgrade with `pip install -U trilane`",
        )
    _check_code(path, manifest)
    return Artifact(path=path, digest=digest, manifest=manifest)


def _check_code(path: Path, manifest: Manifest) -> None:
    """What lies among the author's files would be imported before others of its name, so it must be known."""
    for found in (path / CODE).rglob("*"):
        if not found.is_dir() and found.relative_to(path).as_posix() not in manifest.files:
            raise _damaged(found, "the manifest does not name this file")


class _Version(msgspec.Struct):
    version: int


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a sibling and renames it, so that whoever sees the folder sees all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    draft.mkdir()
    try:
        for file, content in files.items():
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            _write_synced(draft / file, content)
        # Somebody else may have packed the same meanwhile; it is the same, byte for byte.
        with contextlib.suppress(FileExistsError):
            _rename(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError:
        if path.exists():
            raise FileExistsError(path) from None
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


def _check_fit(name: str, signature: Signature, features: Sequence[FeatureColumn], golden: Golden) -> None:
    inputs = [column.name for column in signature.inputs]
    if not name.isidentifier():
        raise ModelError(f"{name!r} cannot be the name of a model", where="name", remedy="Use letters, digits and _")
    if inputs != [feature.name for feature in features]:
        raise ModelError(
            "the feature columns are not the inputs of the signature",
            where=f"model {name}",
            remedy=f"Give one feature for each of {', '.join(inputs)}, in this order",
        )
    if golden.width != signature.width or len(golden.matrix()) != len(golden.expected()):
        raise ModelError(
            f"the golden rows do not fit a model of {signature.width} columns",
            where=f"model {name}",
            remedy="Make them with make_golden from rows of the training set",
        )


def _decoded(path: Path, kind: type[_Struct]) -> _Struct:
    try:
        return msgspec.json.decode(_read(path), type=kind)
    except msgspec.DecodeError as error:
        raise _damaged(path, str(error)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"it cannot be read: {error.strerror}") from error


def _file_digest(path: Path, stamps: Stamps) -> str:
    try:
        return stamps.digest(path)
    except OSError as error:
        raise _damaged(path, f"it cannot be read: {error.strerror}") from error


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(
        f"the artifact is damaged: {what}",
        where=str(path),
        remedy="Delete the folder and train the model again, or copy it from where it is whole",
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
