# Headway's image. Both stages install wheels only, each checked against the hash in a lock file; the last one holds the
# run-time lock and Headway's own wheel, and runs as a user with no rights.

FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements-build.lock ./
RUN pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes -r requirements-build.lock
COPY . .
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .

FROM python:3.12-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HEALTH_URL=http://127.0.0.1:8080/healthz
COPY requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes -r /tmp/requirements.lock
COPY --from=build /dist /tmp/dist
RUN pip install --no-cache-dir --no-deps --no-index /tmp/dist/*.whl
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/headway headway && mkdir -p /etc/headway
USER 10001
WORKDIR /var/lib/headway
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(os.environ['HEALTH_URL'], timeout=2)"]
ENTRYPOINT ["headway"]
CMD ["serve", "-c", "/etc/headway/headway.yaml"]
