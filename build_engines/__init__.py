"""From a recipe to a pair of TensorRT-LLM engines. ``docs/build_engines.md``. Never run on a GPU by this project."""
