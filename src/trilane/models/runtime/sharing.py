"""Weights that the processes of one machine share: laid out once in a file that each of them maps.

A session that reads a model copies its weights; one whose graph points into a file of weights maps it, so that all see
the same pages of the kernel's cache, whatever their number, and loading takes milliseconds. Laws: what is mapped is
ours, named by the digest of what it was made from and the library that made it, and never written again, for a mapped
file that shrinks kills who reads it; it appears complete or not at all; every byte of it is checked, once for each file
as it is (`Stamps`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnxruntime as ort

from trilane.errors import SetupError
from trilane.models.runtime.session import lay_out
from trilane.models.stamps import Stamps

__all__ = ["laid_out", "sources_digest"]

_MANIFEST = "manifest.json"
_LAYOUT = "1"  # of the folder; another one is made beside it


def laid_out(model: Path, folder: Path, stamps: Stamps, *, sources: Sequence[Path] = ()) -> Path:
    """The laid-out form of `model` below `folder`, made if it is not there; `sources` are further files of the model.

    Raises ModelError if the model cannot be opened, SetupError if the disk does not take it, OSError if a file of the
    model cannot be read.
    """
    digest = sources_digest((model, *sources), stamps)
    place = folder / f"{digest[:32]}-{_LAYOUT}-{ort.__version__}"
    if not _is_whole(place, stamps):
        try:
            _make(model, place, stamps)
        except OSError as error:
            remedy = "Free space, or write `share = false` into the model's model.toml"
            raise SetupError(f"the weights cannot be laid out: {error}", where=str(place), remedy=remedy) from error
    return place / "model.onnx"


def sources_digest(files: Sequence[Path], stamps: Stamps) -> str:
    """What tells these files from all others."""
    return hashlib.sha256("\n".join(f"{one.name} {stamps.digest(one)}" for one in sorted(files)).encode()).hexdigest()


def _is_whole(place: Path, stamps: Stamps) -> bool:
    try:
        files = msgspec.json.decode((place / _MANIFEST).read_bytes(), type=dict[str, str])
        return bool(files) and all(stamps.digest(place / name) == digest for name, digest in files.items())
    except (OSError, msgspec.DecodeError):
        return False


def _make(model: Path, place: Path, stamps: Stamps) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
    draft.mkdir()
    try:
        lay_out(str(model), draft)
        files = {one.name: stamps.digest(one) for one in sorted(draft.iterdir())}
        (draft / _MANIFEST).write_bytes(msgspec.json.encode(files))
        for one in draft.iterdir():
            _sync(one)
            one.chmod(0o444)
        if not _is_whole(place, stamps):
            _remove(place)
            with contextlib.suppress(OSError):  # somebody else may have made the same meanwhile
                draft.rename(place)
        if not place.exists():
            raise OSError("another process took it away while it was made")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove(place: Path) -> None:
    """Takes away a damaged one; who has it mapped keeps the pages."""
    aside = place.with_name(f".{place.name}.{os.urandom(4).hex()}.damaged")
    with contextlib.suppress(FileNotFoundError):
        place.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
