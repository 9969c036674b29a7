"""Command line as a module, ``python -m driftloop``, for child processes."""

from driftloop.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
