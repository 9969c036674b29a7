# One image for each kind of process, all from this file: docker build --target processor|producer|retrainer|api|mlflow .
#
# Dependencies come first and from uv.lock alone, so a change of the code copies a megabyte and installs nothing. Each
# target has only what its process imports: the scorer and the monitor are without torch, pandas and MLflow's server.

FROM ghcr.io/astral-sh/uv:0.9 AS uv

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    HOME=/tmp
# 10001 is nobody's number on the host. Volumes take over who owns the folders that they are mounted on.
RUN groupadd --gid 10001 driftloop \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp driftloop \
 && install -d -o 10001 -g 10001 /data /var/cache/driftloop
WORKDIR /app
COPY pyproject.toml uv.lock ./
# For uv, which is lent to the step that installs, and does not stay.
ENV UV_PROJECT_ENVIRONMENT=/opt/venv \
    UV_PYTHON=/usr/local/bin/python \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1 \
    UV_LOCKED=1 \
    UV_NO_DEV=1

# --- our own code, the same in every image --------------------------------------------------------------------------
FROM base AS code
COPY driftloop driftloop
COPY producers producers
COPY stream_processors stream_processors
COPY retrain retrain
COPY serving serving
RUN printf '#!/bin/sh\nexec python -m driftloop "$@"\n' > driftloop.sh && chmod 755 driftloop.sh \
 && python -m compileall -q /app

# --- the images -----------------------------------------------------------------------------------------------------
FROM base AS processor
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv uv sync --no-install-project --extra trace
COPY --from=code /app /app
USER 10001:10001
ENTRYPOINT ["/app/driftloop.sh"]
CMD ["score"]

FROM base AS producer
# What scores and watches is no part of a replay.
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv uv sync --no-install-project --extra replay --extra trace \
    --no-install-package onnxruntime --no-install-package scikit-learn --no-install-package scipy
COPY --from=code /app /app
USER 10001:10001
ENTRYPOINT ["/app/driftloop.sh"]
CMD ["replay", "tweets"]

FROM base AS api
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv uv sync --no-install-project --extra serve
COPY --from=code /app /app
USER 10001:10001
ENTRYPOINT ["/app/driftloop.sh"]
CMD ["serve"]

FROM base AS mlflow
# Its server is started without our package, which switches this off everywhere else.
ENV MLFLOW_DISABLE_TELEMETRY=true
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv uv sync --no-install-project --extra registry
USER 10001:10001
ENTRYPOINT ["mlflow"]
CMD ["server"]

FROM base AS retrainer
# LightGBM, which TPOT may choose, needs OpenMP's library from the system.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv uv sync --no-install-project --extra retrain
COPY --from=code /app /app
USER 10001:10001
ENTRYPOINT ["/app/driftloop.sh"]
CMD ["retrain"]
