"""Old import path of one module, for MLflow models that were registered before version 0.2."""
