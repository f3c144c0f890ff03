# Farthing itself: `serve`, `replay` and every other command. Build it from the repository's root:
#
#   docker build --file deploy/images/farthing.Dockerfile --tag farthing:local .

FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir "uv>=0.8,<1"
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/farthing \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
# the dependencies alone first: they change less often than the code
COPY pyproject.toml uv.lock ./
COPY collectors/probe/pyproject.toml collectors/probe/
RUN uv sync --frozen --no-dev --extra postgres --no-install-workspace
COPY README.md LICENSE ./
COPY core core
COPY collectors collectors
COPY exporters exporters
COPY alerts alerts
COPY dashboards dashboards
COPY app app
RUN uv sync --frozen --no-dev --extra postgres --no-editable

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/farthing --create-home farthing
COPY --from=build /opt/farthing /opt/farthing
ENV PATH=/opt/farthing/bin:$PATH \
    PYTHONUNBUFFERED=1
USER farthing
WORKDIR /var/lib/farthing
VOLUME ["/var/lib/farthing"]
EXPOSE 9464
ENTRYPOINT ["farthing"]
CMD ["serve"]
