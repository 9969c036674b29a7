"""MLflow's server in one process, run with `-m` by `driftloop.devstack.mlflow_process`.

`mlflow server` imports everything, then starts a second process that imports everything again. The same application
in one process takes half the time and half the memory.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import warnings
from contextlib import closing, suppress
from pathlib import Path

from driftloop.core.files import atomic_path


def main() -> None:
    """Serve until SIGTERM. Arguments: the loopback port, and the path for a copy of a new database."""
    warnings.filterwarnings("ignore")
    gc.disable()  # the imports create no garbage
    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    gc.enable()
    gc.freeze()
    database = Path(os.environ["_MLFLOW_SERVER_FILE_STORE"].removeprefix("sqlite:///"))
    new = not database.exists()
    initialize_backend_stores(
        os.environ["_MLFLOW_SERVER_FILE_STORE"],
        os.environ["_MLFLOW_SERVER_FILE_STORE"],
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"],
    )
    if new:
        _store_template(database, Path(sys.argv[2]))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=3,
    )


def _store_template(database: Path, template: Path) -> None:
    """Copy a new database to the cache atomically. A failure only makes the next start slower."""
    with suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_path(template) as scratch,
            closing(sqlite3.connect(database)) as source,
            closing(sqlite3.connect(scratch)) as target,
        ):
            source.backup(target)


if __name__ == "__main__":
    main()
