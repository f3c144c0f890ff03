# Farthing itself: `serve`, `replay` and every other command. Build it from the repository's root:
#
#   docker build --file deploy/images/farthing.Dockerfile --tag farthing:local .
#
# The classic builder and BuildKit both build it, for amd64 and arm64. docs/images.md says what is in the image.

# Debian 12 with Python 3.11 and its venv module; python:3.11-slim-bookworm@sha256:... pins it to the byte
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# for a mirror of the package index, or a certificate authority that the base image knows; nothing of it stays
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
# every file's time and the bill of materials': $(git log -1 --format=%ct) of what is built
ARG SOURCE_DATE_EPOCH=1767225600
ENV PYTHONHASHSEED=0 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/farthing \
    UV_PYTHON=python3 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY deploy/images/build-requirements.txt /build/
RUN python3 -m venv /build/uv \
 && /build/uv/bin/pip install --no-cache-dir --require-hashes --requirement /build/build-requirements.txt
# the dependencies alone first: they change less often than the code
COPY pyproject.toml uv.lock ./
COPY collectors/probe/pyproject.toml collectors/probe/
RUN /build/uv/bin/uv sync --frozen --no-dev --extra postgres --no-install-workspace
COPY README.md LICENSE ./
COPY core core
COPY collectors collectors
COPY exporters exporters
COPY alerts alerts
COPY dashboards dashboards
COPY app app
RUN /build/uv/bin/uv build --all-packages --wheel --out-dir /build/wheels \
      --build-constraints /build/build-requirements.txt --require-hashes \
 && /build/uv/bin/uv pip install --python /opt/farthing --no-deps --no-index /build/wheels/*.whl \
 && /build/uv/bin/uv export --frozen --no-dev --extra postgres --format cyclonedx1.5 \
      --preview-features sbom-export --quiet --output-file /build/lock.cdx.json
COPY deploy/images/trim.py deploy/images/sbom.py /build/
RUN python3 /build/sbom.py --lock /build/lock.cdx.json --environment /opt/farthing \
      --dpkg-status /var/lib/dpkg/status --seconds "$SOURCE_DATE_EPOCH" --output /build/doc/sbom.cdx.json \
 && python3 /build/trim.py /opt/farthing "$SOURCE_DATE_EPOCH" \
 && touch -d "@$SOURCE_DATE_EPOCH" /build/doc/sbom.cdx.json \
 && /opt/farthing/bin/farthing --version \
 && /opt/farthing/bin/python -B -c "import farthing.service.server, farthing.replay"

FROM ${PYTHON_IMAGE}
# no installer in the image; a user; and the folders that named volumes take their owner from
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip \
 && echo 'farthing:x:10001:' >>/etc/group \
 && echo 'farthing:x:10001:10001::/var/lib/farthing:/usr/sbin/nologin' >>/etc/passwd \
 && for folder in /var/lib/farthing \
      /run/farthing/secrets/farthing /run/farthing/secrets/replay /run/farthing/secrets/prometheus \
      /run/farthing/secrets/alertmanager /run/farthing/secrets/grafana /run/farthing/secrets/jaeger \
      /var/lib/jaeger; \
    do install -d -o 10001 -g 10001 "$folder"; done
COPY --from=build /build/doc/sbom.cdx.json /usr/share/doc/farthing/
COPY --from=build /opt/farthing /opt/farthing
ENV PATH=/opt/farthing/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/farthing
VOLUME ["/var/lib/farthing"]
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=6 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/readyz', timeout=2)"]
ENTRYPOINT ["farthing"]
CMD ["serve"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Farthing" \
      org.opencontainers.image.description="Observability and exact cost tracking for self-hosted LLM serving" \
      org.opencontainers.image.source="https://github.com/farthing/farthing" \
      org.opencontainers.image.documentation="https://github.com/farthing/farthing/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
