# Both regions on GPUs, from NVIDIA's image of Triton with TensorRT-LLM 1.2.1, the last line that serves engines.
# Not built and not run by this project: no GPU, no container.
#
#   docker build -f deploy/images/gpu.Dockerfile --target controller -t wanspec-controller .
#   docker build -f deploy/images/gpu.Dockerfile --target worker -t wanspec-worker .
#
# Engines fit the image they were built in: build them in this one (docs/runbook.md).
ARG BASE=nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3

FROM ${BASE} AS wheel
# Into the image's own Python, which Triton's stub runs, also where it is marked as the system's to manage (PEP 668).
ENV PIP_BREAK_SYSTEM_PACKAGES=1
COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY build_engines /src/build_engines
COPY model_repo /src/model_repo
COPY wanspec /src/wanspec
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /src

FROM ${BASE} AS region
ENV PIP_BREAK_SYSTEM_PACKAGES=1
# Without constraints.txt: the image's own numpy, torch and transformers are those that TensorRT-LLM was made with.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    python3 -m pip install --no-cache-dir "$(echo /wheel/*.whl)[trtllm]"
# What the repositories need, looked for now and not when a GPU is paid for.
RUN test -x /opt/tritonserver/bin/tritonserver \
    && test -d /opt/tritonserver/backends/tensorrtllm \
    && test -d /opt/tritonserver/backends/python \
    && python3 -c "import torch, transformers, wanspec.triton.wanspec_model, wanspec.triton.worker_model" \
    && wanspec render --help > /dev/null
COPY --chmod=755 deploy/images/serve.sh deploy/images/health.py /opt/wanspec/
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/cache/wanspec wanspec \
    && install -d -m 1777 /var/cache/wanspec
# A user of any number has a home to write to, and a name, which libraries that compile at run time ask for.
ENV WANSPEC_CACHE=/var/cache/wanspec HOME=/var/cache/wanspec USER=wanspec PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000 8001 8002
# Engines of tens of gigabytes take minutes to load.
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python3", "/opt/wanspec/health.py", "ready"]
ENTRYPOINT ["/opt/wanspec/serve.sh"]

FROM region AS worker
CMD ["--profile", "tensorrt-llm", "--region", "worker", "--engines", "/engines"]

FROM region AS controller
CMD ["--profile", "tensorrt-llm", "--region", "controller", "--engines", "/engines"]
