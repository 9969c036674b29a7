"""Entry point of the command line: parses the arguments, runs the verb, and turns errors into one sentence."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from driftloop.cli import parser
from driftloop.cli.options import INTERRUPTED
from driftloop.cli.output import write
from driftloop.core.errors import DriftloopError
from driftloop.core.observability import logs

BROKEN_PIPE = 141
"""Exit status if the reader of standard output has closed it, as shells report SIGPIPE."""
SERVICES = {"kafka": "Kafka", "aiokafka": "Kafka", "redis": "Redis", "mlflow": "MLflow", "requests": "MLflow"}
"""Service by the package whose exceptions tell of its failure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status. A failure is one sentence on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without the character shows its code point instead of a failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except DriftloopError as error:
        logs.print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe, as in `driftloop watch … | head`.
        _discard_output()
        return BROKEN_PIPE
    except Exception as error:
        sentence = _service_failure(error)
        if sentence is None:
            raise
        logs.print_error(sentence)
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        return DriftloopError.exit_code


def _run(argv: Sequence[str] | None) -> int:
    command_line = parser.build()
    try:
        arguments = command_line.parse_args(argv)
    except SystemExit:
        # A help page or a refusal was printed. Flushing here reports a full disk like every other failure.
        sys.stdout.flush()
        raise
    if arguments.version:
        import driftloop

        write(f"driftloop {driftloop.__version__}")
        return 0
    if arguments.verb is None:
        command_line.print_help(sys.stderr)
        return 2
    status: int = arguments.run_verb(arguments)
    return status


def _discard_output() -> None:
    """Redirect standard output to the null device, so that the rest of its buffer cannot fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _service_failure(error: Exception) -> str | None:
    """Return one sentence for a failure of the disk or of a service, `None` for a bug of driftloop."""
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"The operating system reported: {error.strerror}{place}. Make room or check that path, then try again."
    service = SERVICES.get(type(error).__module__.partition(".")[0])
    if service is None:
        return None
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return f"{service} failed: {reason}. Check that it is running, then run the same command again."
