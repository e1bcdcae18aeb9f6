"""The few calls of Triton's HTTP API that starting a server needs, on the standard library."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass

from wanspec.errors import ServerError

PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class TritonApi:
    """Triton's HTTP endpoint at ``host:port``."""

    host: str
    port: int

    def server_ready(self) -> bool:
        """Whether the server answers that it is ready."""
        return self._get_ok("/v2/health/ready")

    def model_ready(self, model: str) -> bool:
        """Whether ``model`` is loaded and takes requests."""
        return self._get_ok(f"/v2/models/{model}/ready")

    def load(self, model: str, timeout_s: float) -> None:
        """Load ``model`` from the repository; returns when its ``initialize`` has ended.

        Raises:
            ServerError: the model does not load (with Triton's text, which holds the exception of the model's code).
            OSError: the server cannot be reached, closes the connection, or takes longer than ``timeout_s``.
        """
        status, body = self._call("POST", f"/v2/repository/models/{model}/load", timeout_s)
        if status != http.client.OK:
            raise ServerError(_error_text(body) or f"HTTP status {status}")

    def _get_ok(self, path: str) -> bool:
        try:
            return self._call("GET", path, PROBE_TIMEOUT_S)[0] == http.client.OK
        except OSError:
            return False

    def _call(self, method: str, path: str, timeout_s: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=max(timeout_s, 0.001))
        try:
            connection.request(method, path, body=b"{}" if method == "POST" else None)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{self.host}:{self.port}: {error!r}") from error
        finally:
            connection.close()


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")
