# The convserve image: `docker build .` builds the CPU image, `--target gpu` the image for NVIDIA GPUs.
# `--build-arg TRACES=1` adds what --otlp-endpoint needs.
#
#   docker run -p 8001:8001 -p 8002:8002 --read-only --tmpfs /tmp --cap-drop ALL convserve
#   docker run … -v ./my-models:/models:ro convserve                serves your own models
#   docker run … -e CONVSERVE_MAX_QUEUED_REQUESTS=256 convserve     sets an option by environment variable
#   docker run … convserve serve --max-queued-requests 256          or by flag
#   docker run … convserve classify --server HOST:8001 --model …    runs the client
#
# Works with BuildKit and with older buildah: no here-documents, no COPY --link.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- Build tools, not in the image: pinned by version and hash in lock files that `make lock` renews -----------------
FROM ${PYTHON_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all: PIP_NO_COMPILE=1
WORKDIR /build
COPY requirements requirements
COPY scripts/image-packages.sh ./
# Two environments without pip: one for the build tools, one for the image.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/tools \
 && python -m venv --without-pip /opt/convserve \
 && pip --python /opt/tools/bin/python install --no-deps --require-hashes -r requirements/build.txt

# ---- The server, in its own layer: an update transfers a megabyte, not the dependencies -----------------------------
FROM tools AS server
COPY pyproject.toml README.md* LICENSE ./
COPY service service
RUN pip --python /opt/tools/bin/python wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels . \
 && pip --python /opt/convserve/bin/python install --no-deps --no-index --root /staging wheels/*.whl \
 && find /staging/opt/convserve/bin -type f ! -name convserve -delete \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /staging /staging/opt/convserve/lib

# ---- The dependencies, and the SBOM of all packages in the environment, including the server ------------------------
FROM tools AS runtime-cpu
ARG TRACES
RUN --mount=type=cache,target=/root/.cache/pip ./image-packages.sh requirements/cpu.txt ${TRACES:+requirements/otel.txt}

FROM runtime-cpu AS sbom-cpu
COPY --from=server /staging/ /
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --validate -o sbom.cdx.json /opt/convserve/bin/python

# ---- What both images share, except the dependencies ----------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS common

# Fixed numbers, for the owners of volumes and for Kubernetes' runAsNonRoot.
RUN groupadd --gid 10001 convserve \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin convserve
USER 10001:10001
WORKDIR /tmp

# The server listens on every interface, to be reachable from outside the container. It then uses the grpcio transport,
# as the faster native transport does not limit messages before Python sees them. If a proxy limits them, set
# CONVSERVE_TRUST_CLIENTS=true to get the native transport. The server writes only to /tmp: the root may be read-only.
# ONNX Runtime's wheels send usage data to Microsoft since 1.29 unless this is disabled.
# glibc keeps what was freed in as many arenas as eight times the cores, and most of it in arenas that it never trims:
# large messages leave more with each thread that they pass through. Two arenas reuse it.
ENV PATH=/opt/convserve/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MALLOC_ARENA_MAX=2 \
    CONVSERVE_HOST=0.0.0.0 \
    CONVSERVE_GRPC_PORT=8001 \
    CONVSERVE_HTTP_PORT=8002 \
    CONVSERVE_MODELS=/models
EXPOSE 8001 8002

# Checks readiness over HTTP, which needs no TLS: healthy means that the models reproduced their golden vectors. This
# follows another port only if CONVSERVE_HTTP_PORT sets it, not a flag.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys; \
asked = http.client.HTTPConnection('127.0.0.1', int(os.environ['CONVSERVE_HTTP_PORT']), timeout=4); \
asked.request('GET', '/readyz'); \
sys.exit(asked.getresponse().status != 200)"]

# Exec form: the server is process 1 and gets SIGTERM itself, and then drains.
ENTRYPOINT ["convserve"]
CMD ["serve"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convserve" \
      org.opencontainers.image.description="From a torch CNN to a production gRPC endpoint that proves its answers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      dev.convserve.sbom="/opt/convserve/sbom.cdx.json"

# ---- Image: CPU ------------------------------------------------------------------------------------------------------
FROM common AS cpu
COPY --from=runtime-cpu /opt/convserve /opt/convserve
COPY --from=server /staging/ /
COPY --from=sbom-cpu /build/sbom.cdx.json /opt/convserve/
COPY models /models
# Fails the build unless every model loads and reproduces its golden vectors.
RUN ["convserve", "inspect", "/models"]

# ---- Image: GPU. CUDA and cuDNN come as wheels: no CUDA base image, only the host's driver is needed ----------------
FROM tools AS runtime-gpu
ARG TRACES
RUN --mount=type=cache,target=/root/.cache/pip ./image-packages.sh requirements/gpu.txt ${TRACES:+requirements/otel.txt}

FROM runtime-gpu AS sbom-gpu
COPY --from=server /staging/ /
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --validate -o sbom.cdx.json /opt/convserve/bin/python

FROM common AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=runtime-gpu /opt/convserve /opt/convserve
COPY --from=server /staging/ /
COPY --from=sbom-gpu /build/sbom.cdx.json /opt/convserve/
COPY models /models
RUN ["convserve", "inspect", "/models"]

# ---- Default target: the CPU image. `cpu` itself stays above: older buildah builds every stage above the target ------
FROM cpu
