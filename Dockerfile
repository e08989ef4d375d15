# syntax=docker/dockerfile:1
# One image for the operator, the REST facade and its mirror; the command chooses (see CMD at the end).
#
#   docker build --tag dotmac-operator .
#   docker run --rm dotmac-operator dotmac-operator --help
#
# PYTHON_IMAGE may be any image with Python 3.12 or 3.13 of a registry that you trust, best by digest.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG POETRY_VERSION=2.5.1
ARG POETRY_EXPORT_VERSION=1.10.1
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
RUN command -v strip > /dev/null || (apt-get update -q && apt-get install -qy --no-install-recommends binutils)
RUN python3 -m venv /poetry \
 && /poetry/bin/pip install --quiet "poetry==${POETRY_VERSION}" "poetry-plugin-export==${POETRY_EXPORT_VERSION}"
WORKDIR /src
COPY pyproject.toml poetry.lock ./
# Locked versions, each by its hash. Without the groups `local` and `dev`: no test tools, no embedded control plane.
RUN /poetry/bin/poetry export --only main --format requirements.txt --output /requirements.txt \
 && python3 -m venv --without-pip /opt/dotmac \
 && /poetry/bin/pip --python /opt/dotmac/bin/python install --quiet --no-compile --require-hashes --requirement /requirements.txt
# Half of the space: debug symbols of four Cython packages, and the docstrings of the Kubernetes client's 1,500 modules,
# which are kept compiled, so that a start on a read-only root does not compile them each time.
# The libraries inside other wheels were patched after linking and do not survive strip.
RUN find /opt/dotmac -name '*.so' \( -path '*/uvloop/*' -o -path '*/sqlalchemy/*' -o -path '*/aiohttp/*' -o -path '*/httptools/*' \) \
      -exec strip --strip-unneeded {} + \
 && cd /opt/dotmac/lib/python3*/site-packages \
 && python3 -OO -m compileall -q -b kubernetes && find kubernetes -name '*.py' -delete \
 && rm -rf sqlalchemy/testing greenlet/tests
COPY README.md ./
COPY crds crds
COPY operator operator
COPY api api
COPY deploy/local deploy/local
RUN /poetry/bin/poetry build --quiet --format wheel --output /dist \
 && /poetry/bin/pip --python /opt/dotmac/bin/python install --quiet --no-deps --no-compile /dist/*.whl \
 && rm -rf /opt/dotmac/lib/python3*/site-packages/dotmac_local /opt/dotmac/bin/dotmac-local \
 && python3 -m compileall -q /opt/dotmac/lib/python3*/site-packages/dotmac_*

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="DotMac Operator" \
      org.opencontainers.image.description="Keeps multi-tenant ERP instances running on Docker hosts over SSH" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The DotMac maintainers"
COPY --from=build /opt/dotmac /opt/dotmac
# Nothing is written at run time: the image works with a read-only root and any user id.
ENV PATH=/opt/dotmac/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/nonexistent
USER 65532:65532
WORKDIR /
# Or: dotmac-api serve | dotmac-api migrate | dotmac-api mirror | dotmac-crds --stdout | dotmac-operator check
CMD ["dotmac-operator", "run"]
