"""Old name of `driftloop.core.models.mlflow_pyfunc`, for MLflow models that were registered before version 0.2.

Their MLmodel files name this module as the loader. It stays until version 1.0.
"""

from driftloop.core.models.mlflow_pyfunc import _load_pyfunc as _load_pyfunc
