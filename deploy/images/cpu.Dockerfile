# Either region on a CPU, and the relay: this package, PyTorch, and Triton from the package nvidia-pytriton.
#
#   docker build -f deploy/images/cpu.Dockerfile -t wanspec-cpu .
#
# TORCH_INDEX: a further package index, for PyTorch without CUDA (README, "Installing"): gigabytes less.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS packages
ARG TORCH_INDEX=
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY constraints.txt /src/
# The large package alone and first, so that a change of ours does not fetch it anew. Its version: constraints.txt.
RUN pip install --constraint /src/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        "torch==$(sed -n 's/^torch==//p' /src/constraints.txt)"
COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY build_engines /src/build_engines
COPY model_repo /src/model_repo
COPY wanspec /src/wanspec
RUN pip install --constraint /src/constraints.txt "/src[local,openai]"

FROM python:${PYTHON}
COPY --from=packages /opt/venv /opt/venv
COPY --chmod=755 deploy/images/serve.sh deploy/images/health.py /opt/wanspec/
# Models that are not in a volume are made in the cache, once.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/cache/wanspec wanspec \
    && install -d -m 1777 /var/cache/wanspec
# A user of any number has a home to write to, and a name, which libraries that compile at run time ask for.
ENV PATH=/opt/venv/bin:$PATH WANSPEC_CACHE=/var/cache/wanspec HOME=/var/cache/wanspec USER=wanspec PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "/opt/wanspec/health.py", "ready"]
ENTRYPOINT ["/opt/wanspec/serve.sh"]
CMD ["--profile", "cpu", "--region", "worker", "--target", "small-target", "--draft", "small-draft"]
