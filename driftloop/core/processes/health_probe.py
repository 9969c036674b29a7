"""Asks a driftloop process on this machine whether it is well: status 0 when it is, with its own words.

Run as a script, as a container's health check: ``probe.py [URL]``. It imports nothing outside the standard library, so
that a check every few seconds costs next to nothing.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Print the answer of ``/health``, and return 0 for a well process, 1 for an ill one or none."""
    url = (
        sys.argv[1]
        if len(sys.argv) > 1
        else f"http://127.0.0.1:{os.environ.get('DRIFTLOOP_HEALTH__PORT', '9100')}/health"
    )
    # A proxy of the environment is for what is elsewhere.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            answer, status = direct.open(url, timeout=5), 0
        except urllib.error.HTTPError as error:
            answer, status = error, 1
        with answer:
            sys.stdout.write(answer.read(2000).decode(errors="replace"))
        return status
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.stdout.write(f"{url} does not answer: {str(error).strip()}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
