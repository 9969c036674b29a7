"""``python -m driftloop``: the command line, as child processes start it."""

from driftloop.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
