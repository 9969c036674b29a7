"""driftloop: streaming inference with drift detection, retraining and live promotion of better models."""

import os

__version__ = "0.1.0"

# Some libraries send usage data to their makers unless this is disabled before the import.
for _switch in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "true")
