"""An OpenAI-compatible HTTP front over the endpoint: ``docs/openai.md``. A process of its own, beside Triton."""
