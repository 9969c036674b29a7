"""driftloop: streaming inference that notices drift, retrains and swaps in the better model live."""

import os

__version__ = "0.1.0"

# Some libraries tell their makers who uses them and for what, unless they are told not to before they are imported.
for _switch in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "true")
