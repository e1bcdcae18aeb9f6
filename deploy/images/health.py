"""Asks this machine's Triton: ``health.py live`` or ``health.py ready``, and the port of HTTP where it is not 8000.

Exit code 0: it is. HTTP listens on 127.0.0.1 only where gRPC has TLS, so a probe must come from inside the container.
"""

import http.client
import sys

TIMEOUT_S = 4.0

what, port = (*sys.argv[1:], "8000")[:2]
if what not in ("live", "ready"):
    sys.exit(f"{what}: ask live or ready")
connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
try:
    connection.request("GET", f"/v2/health/{what}")
    status = connection.getresponse().status
except OSError as error:
    sys.exit(f"not {what}: {error}")
if status != http.HTTPStatus.OK:
    sys.exit(f"not {what}: HTTP status {status}")
