# convserve in an image: `docker build .` makes the one for CPUs, `--target gpu` the one for NVIDIA GPUs. With
# `--build-arg TRACES=1` it has what --otlp-endpoint needs.
#
#   docker run -p 8001:8001 -p 8002:8002 --read-only --tmpfs /tmp --cap-drop ALL convserve
#   docker run … -v ./my-models:/models:ro convserve                serves your own models
#   docker run … -e CONVSERVE_MAX_QUEUED_REQUESTS=256 convserve     takes settings from the environment
#   docker run … convserve serve --max-queued-requests 256          or as flags
#   docker run … convserve classify --server HOST:8001 --model …    is the client
#
# Written for BuildKit and for older buildah alike: no here-documents, no COPY --link.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- What builds, and stays behind: all of it by version and hash, from lock files that `make lock` renews -----------
FROM ${PYTHON_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all: PIP_NO_COMPILE=1
WORKDIR /build
COPY requirements requirements
COPY scripts/image-packages.sh ./
# Two environments without pip in them: the tools' own, and the one that is going to be the image's.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/tools \
 && python -m venv --without-pip /opt/convserve \
 && pip --python /opt/tools/bin/python install --no-deps --require-hashes -r requirements/build.txt

# ---- The server itself, in a layer of its own: an update of it moves a megabyte, not the dependencies ---------------
FROM tools AS server
COPY pyproject.toml README.md* LICENSE ./
COPY service service
RUN pip --python /opt/tools/bin/python wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels . \
 && pip --python /opt/convserve/bin/python install --no-deps --no-index --root /staging wheels/*.whl \
 && find /staging/opt/convserve/bin -type f ! -name convserve -delete \
 && python -m compileall -q --invalidation-mode unchecked-hash -s /staging /staging/opt/convserve/lib

# ---- The dependencies, and the SBOM: which packages the environment is made of, the server's own among them ---------
FROM tools AS runtime-cpu
ARG TRACES
RUN --mount=type=cache,target=/root/.cache/pip ./image-packages.sh requirements/cpu.txt ${TRACES:+requirements/otel.txt}

FROM runtime-cpu AS sbom-cpu
COPY --from=server /staging/ /
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --validate -o sbom.cdx.json /opt/convserve/bin/python

# ---- What both images have in common, but for the dependencies ------------------------------------------------------
FROM ${PYTHON_IMAGE} AS common

# Fixed numbers, for the owners of volumes and for Kubernetes' runAsNonRoot.
RUN groupadd --gid 10001 convserve \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin convserve
USER 10001:10001
WORKDIR /tmp

# To be reached from outside its container, the server listens on every interface. It then takes the grpcio transport by
# itself: the faster native one bounds no message before Python sees it. Where a proxy in front bounds them,
# CONVSERVE_TRUST_CLIENTS=true brings it back. All that is ever written goes to /tmp, so the root may be read-only.
# From 1.29 on, ONNX Runtime's wheels send usage data to their maker unless told not to.
ENV PATH=/opt/convserve/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    CONVSERVE_HOST=0.0.0.0 \
    CONVSERVE_GRPC_PORT=8001 \
    CONVSERVE_HTTP_PORT=8002 \
    CONVSERVE_MODELS=/models
EXPOSE 8001 8002

# Asks what a load balancer asks, over HTTP, where no TLS is in the way: healthy is a server whose models reproduced their
# golden answers. Another port is seen here only if the environment sets it, not a flag.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys; \
asked = http.client.HTTPConnection('127.0.0.1', int(os.environ['CONVSERVE_HTTP_PORT']), timeout=4); \
asked.request('GET', '/readyz'); \
sys.exit(asked.getresponse().status != 200)"]

# The exec form: the server is process 1 and gets SIGTERM itself, upon which it drains.
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
# Proof that nothing is missing: every model is loaded and reproduces its golden answers, or there is no image.
RUN ["convserve", "inspect", "/models"]

# ---- Image: GPU. CUDA and cuDNN come as wheels, so it needs no CUDA base image, only the driver of the host ---------
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

# ---- Without --target: the CPU image. Last, and not by moving `cpu` here, as older buildah builds all that is above ---
FROM cpu
