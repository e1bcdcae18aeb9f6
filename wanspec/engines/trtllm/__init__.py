"""The worker's draft engine on TensorRT-LLM 1.2, by its executor's Python bindings (``docs/worker_engines.md``).

Not run on a GPU by this project.
"""
