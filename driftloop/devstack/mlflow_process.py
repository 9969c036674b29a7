"""MLflow as a child process: one uvicorn worker on SQLite, which also serves artifacts and webhooks."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import os
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import driftloop
from driftloop.core.errors import DriftloopError
from driftloop.core.files import write_private
from driftloop.core.processes.supervisor import ManagedProcess
from driftloop.core.settings import cache_dir
from driftloop.devstack.ports import HOST, listening

DATABASE = "mlflow.db"


def prepare(folder: Path, log: Path, port: int, keep: Sequence[int] = ()) -> ManagedProcess:
    """Make the folders and return the process of the server, which is not started.

    Args:
        folder: Folder of the database and the artifacts; made if missing.
        log: File for the output of the server.
        port: Port of the server.
        keep: File descriptors that the process inherits.

    Raises:
        DriftloopError: MLflow's server is not installed.
    """
    # mlflow-skinny, which the scorer needs, has the package mlflow but not the others.
    if any(importlib.util.find_spec(name) is None for name in ("mlflow", "sqlalchemy", "fastapi", "uvicorn")):
        raise DriftloopError(
            "MLflow's server is not installed: run `pip install 'driftloop[embedded]'`, or set DRIFTLOOP_MLFLOW to a "
            "running server."
        )
    artifacts = folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    sources = Path(driftloop.__file__).resolve().parent.parent
    template = cache_dir() / f"mlflow-{version('mlflow')}.db"
    _copy_template(template, folder / DATABASE)
    argv = [sys.executable, "-P", "-m", "driftloop.devstack.mlflow_server", str(port), str(template)]
    env = {
        # Variables that `mlflow server` sets for its workers; mlflow.server.constants has their names.
        # The database is relative to the working folder, because a path may contain characters that a URL must not.
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{DATABASE}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts.as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_WORKSPACES": "false",
        # A subscriber on this machine may use plain HTTP and the loopback address.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": _webhook_key(folder / "webhook.key"),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(sources), os.environ.get("PYTHONPATH")])),
    }
    return ManagedProcess("MLflow", argv, env=env, log=log, cwd=folder, keep=keep)


def ready(port: int) -> bool:
    """Return True if the server answers. It listens only when its database is up to date."""
    if not listening(port):
        return False
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _copy_template(template: Path, database: Path) -> None:
    """Start a new run with a copy of an empty database, because the server needs 1.5 s to create its 50 tables."""
    if database.exists() or not template.exists():
        return
    scratch = database.with_suffix(".new")
    try:
        shutil.copyfile(template, scratch)
        with closing(sqlite3.connect(scratch)) as connection:
            intact = connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            empty = connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        if intact and empty:
            scratch.replace(database)
        else:
            template.unlink()
    except sqlite3.DatabaseError:
        template.unlink(missing_ok=True)
    finally:
        scratch.unlink(missing_ok=True)


def _webhook_key(file: Path) -> str:
    """Return the key that encrypts webhook secrets in the database. It is stored, so that they survive a restart."""
    if not file.exists():
        write_private(file, base64.urlsafe_b64encode(os.urandom(32)))
    return file.read_text(encoding="ascii").strip()
