# vLLM with the probe: what vllm/vllm-openai does, and every request on Farthing's books. From the repository's root:
#
#   docker build --file deploy/images/vllm.Dockerfile --tag farthing-vllm:local .
#   docker run --gpus all --publish 127.0.0.1:8000:8000 --volume vllm:/var/lib/vllm \
#     --env FARTHING_PROBE_URL=http://farthing:9464 --env FARTHING_PROBE_TOKEN_FILE=/run/secrets/farthing-token \
#     farthing-vllm:local MODEL
#
# Classic builder and BuildKit; the architectures of the engine's image.

# any image with vLLM 0.11.2 to 0.33; @sha256:... pins it to the byte
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0
# what builds the probe's wheel: Python 3.10 or newer with its venv module
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# for a mirror of the package index, or a certificate authority that the base image knows; nothing of it stays
ARG PIP_CERT
ARG PIP_INDEX_URL
ARG SSL_CERT_FILE
ARG SOURCE_DATE_EPOCH=1767225600
COPY deploy/images/build-requirements.txt /build/
RUN python3 -m venv /build/tools \
 && /build/tools/bin/pip install --no-cache-dir --require-hashes --requirement /build/build-requirements.txt
COPY collectors/probe /build/probe
RUN /build/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheels /build/probe

FROM ${VLLM_IMAGE}
# some of vLLM's images are a plain user's; what follows is root's work
USER 0
# the engine's interpreter, where it is not the first python3 on PATH
ARG VLLM_PYTHON=python3
COPY --from=build /build/wheels /tmp/probe/
COPY deploy/images/install_probe.py /tmp/probe/
RUN "${VLLM_PYTHON}" /tmp/probe/install_probe.py /tmp/probe/farthing_probe-*.whl \
 && rm -rf /tmp/probe \
 && echo 'farthing-vllm:x:10001:' >>/etc/group \
 && echo 'farthing-vllm:x:10001:10001::/var/lib/vllm:/usr/sbin/nologin' >>/etc/passwd \
 && mkdir -p /var/lib/vllm && chown 10001:10001 /var/lib/vllm
# models, compiled kernels and records that wait for Farthing; a volume keeps them
ENV HOME=/var/lib/vllm \
    HF_HOME=/var/lib/vllm/huggingface \
    FARTHING_PROBE_SPOOL=/var/lib/vllm/farthing-probe
USER 10001:10001
WORKDIR /var/lib/vllm
VOLUME ["/var/lib/vllm"]
EXPOSE 8000
# weights are read for minutes before the first answer
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=6 \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# docs/probe.md says what each adds; MODEL and further flags follow
ENTRYPOINT ["vllm", "serve", "--middleware", "farthing_probe.RequestMeter", "--enable-logging-iteration-details", \
            "--enable-prompt-tokens-details", "--shutdown-timeout", "10"]
LABEL org.opencontainers.image.title="vLLM with Farthing's probe" \
      org.opencontainers.image.description="vLLM whose requests are on Farthing's books" \
      org.opencontainers.image.source="https://github.com/farthing/farthing" \
      org.opencontainers.image.licenses="Apache-2.0"
