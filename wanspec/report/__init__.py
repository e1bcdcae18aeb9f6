"""The HTML report: where the time of requests went, from event logs or trace exports, as one file without a server."""
