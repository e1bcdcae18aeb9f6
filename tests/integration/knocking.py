"""A controller of one frame."""

from __future__ import annotations

import queue

import numpy as np
import tritonclient.grpc as triton


def knock(url: str, frame: bytes) -> bytes:
    """Open a link with a frame; return the first reply."""
    replies: queue.SimpleQueue[object] = queue.SimpleQueue()
    client = triton.InferenceServerClient(url)
    client.start_stream(lambda result, error: replies.put(result if error is None else error))
    tensor = triton.InferInput("frame", [len(frame)], "UINT8")
    tensor.set_data_from_numpy(np.frombuffer(frame, dtype=np.uint8))
    client.async_stream_infer("wanspec_worker", [tensor], request_id="link")
    result = replies.get(timeout=10)
    client.stop_stream(cancel_requests=True)
    return bytes(result.as_numpy("frame").tobytes())  # type: ignore[attr-defined]
