"""MLflow's own server in this very process, run with `-m` by `driftloop.devstack.mlflow_process`.

`mlflow server` imports everything, then starts a second process that imports everything again; starting the same
application here takes half the time and half the memory.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import warnings
from contextlib import closing, suppress
from pathlib import Path


def main() -> None:
    """Serve until SIGTERM; arguments: the loopback port, and where to keep a copy of a newly made database."""
    warnings.filterwarnings("ignore")
    gc.disable()  # nothing that the imports make is garbage
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
        _keep_template(database, Path(sys.argv[2]))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=3,
    )


def _keep_template(database: Path, template: Path) -> None:
    """Copy the database that has just been made to the cache, in one step; a failure costs only speed."""
    scratch = template.with_name(f".{os.getpid()}-{template.name}")
    with suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(scratch)) as target:
                source.backup(target)
            scratch.replace(template)
        finally:
            scratch.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
