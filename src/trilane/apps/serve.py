"""The server role as a process: the one that listens, in place of the process that calls `serve`.

Laws: the process id stays, so whoever started it can signal and supervise it; its workers end with it; its port is held
for exactly as long as it lives.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from trilane.apps.config import Config
from trilane.apps.processes import PROJECT, SERVER, check_port, hold_port
from trilane.apps.server.counts import forget_counts
from trilane.errors import SetupError
from trilane.plugins import make_folder

__all__ = ["check_grpc", "check_traces", "serve"]


def serve(config: Config) -> NoReturn:
    """Becomes the server. Raises SetupError if its port is taken."""
    hold_port(config.state, config.port)
    check_port(config.host, config.port)
    check_grpc(config)
    check_traces(config)
    if config.workers > 1:
        shutil.rmtree(_metrics(config), ignore_errors=True)  # counts of processes that are gone
        make_folder(_metrics(config))
        forget_counts(config.state, config.port)
    os.execve(sys.executable, _command(), {**os.environ, **_environment(config)})


def check_grpc(config: Config) -> None:
    """Raises SetupError if gRPC is asked for and cannot be spoken."""
    if not config.grpc_port:
        return
    if importlib.util.find_spec("grpc") is None:
        remedy = "Install it: `pip install 'trilane[grpc]'`, or leave `grpc_port` out"
        raise SetupError("gRPC needs the package grpcio", where="grpc_port", remedy=remedy)
    if config.grpc_port == config.port:
        raise SetupError("gRPC and HTTP have one port", where="grpc_port", remedy="Give each a port of its own")
    check_port(config.host, config.grpc_port)


def check_traces(config: Config) -> None:
    """Raises SetupError if requests are to be traced and what sends traces is not installed."""
    if not config.traces:
        return
    try:
        importlib.import_module("trilane.apps.server.traces")
    except ImportError as error:
        remedy = "Install it: `pip install 'trilane[otel]'`, or leave `traces` out"
        raise SetupError(f"traces need OpenTelemetry: {error}", where="traces", remedy=remedy) from error


def _command() -> list[str]:
    return [sys.executable, "-m", "trilane.apps.server.listening"]


def _environment(config: Config) -> Mapping[str, str]:
    return {
        PROJECT: str(config.root),
        SERVER: str(os.getpid()),
        "TRILANE_REPLAY": "true" if config.replay else "false",
        "TRILANE_HOST": config.host,
        "TRILANE_PORT": str(config.port),
        "TRILANE_GRPC_PORT": str(config.grpc_port),
        "TRILANE_WORKERS": str(config.workers),
        "PYTHONUNBUFFERED": "1",
        # Without it each worker would tell only its own counts, whichever answers a scrape.
        **({"PROMETHEUS_MULTIPROC_DIR": str(_metrics(config))} if config.workers > 1 else {}),
    }


def _metrics(config: Config) -> Path:
    return config.state / "metrics"
