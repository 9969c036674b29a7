"""Health check of a driftloop process on this machine, for containers.

Usage: ``health_probe.py [URL]``. The exit status is 0 if the process is healthy. The script imports only the standard
library, because it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Print the response of ``/health``. Return 0 if the process is healthy, otherwise 1."""
    url = (
        sys.argv[1]
        if len(sys.argv) > 1
        else f"http://127.0.0.1:{os.environ.get('DRIFTLOOP_HEALTH__PORT', '9100')}/health"
    )
    # A proxy from the environment is for other machines.
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
