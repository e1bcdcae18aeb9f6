"""Triton's gRPC client, made safe to close."""

from __future__ import annotations

from typing import Any

import grpc
import tritonclient.grpc as triton


class Connection(triton.InferenceServerClient):  # type: ignore[misc]  # tritonclient has no types
    """A client that can be closed at any moment: half made, should Ctrl-C come then, or with a request under way."""

    _channel: Any = None
    _stream: Any = None

    def __init__(self, url: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        """``url``: ``host:port`` of gRPC. ``credentials``: of TLS; plaintext where None."""
        super().__init__(url, creds=credentials)

    def close(self) -> None:
        """Close; a request still under way is cancelled, not waited for."""
        self.stop_stream(cancel_requests=True)
        if self._channel is not None:
            super().close()

    def stop_stream(self, cancel_requests: bool = False) -> None:
        """Stop the stream, if there is one, and all of its threads."""
        if self._stream is not None:
            # One that is cancelled, or has broken, leaves gRPC's thread waiting for more requests: this ends it.
            self._stream._request_queue.put(None)
        super().stop_stream(cancel_requests)
