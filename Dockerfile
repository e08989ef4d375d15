# syntax=docker/dockerfile:1
# One image for the operator, the REST facade and its mirror; the command chooses (see CMD at the end).
#
#   docker build --tag dotmac-operator --build-arg REVISION="$(git rev-parse HEAD)" \
#     --build-arg CREATED="$(date --utc +%FT%TZ)" .
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
# The programs import most of these modules at every start, on a read-only root: compiled here, or each time anew.
# What is compiled needs no source, but for the packages whose licences ask for it (LGPL, MPL).
# Of the Kubernetes client, half of all the space, stay the parts that we use: the API classes load when they are asked
# for, and the facade takes only the configuration from kubernetes.aio. Docstrings of its generated models are left out.
# The libraries that psycopg brings were patched after linking and do not survive strip.
RUN cd /opt/dotmac/lib/python3*/site-packages \
 && find . -name '*.so' -not -path './psycopg_binary*' -exec strip --strip-unneeded {} + \
 && rm -rf sqlalchemy/testing greenlet/tests websocket/tests certifi/tests \
 && find kubernetes/client/api -name '*_api.py' \
      -not -name authorization_v1_api.py -not -name coordination_v1_api.py -not -name core_v1_api.py \
      -not -name custom_objects_api.py -not -name version_api.py -delete \
 && find kubernetes/aio/client/api kubernetes/aio/client/models -name '*.py' -not -name __init__.py -delete \
 && find . \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.[ch]pp' \) -delete \
 && python3 -m compileall -q --invalidation-mode unchecked-hash paramiko psycopg psycopg_binary certifi \
 && python3 -OO -m compileall -q -b kubernetes \
 && python3 -m compileall -q -b -x '/(paramiko|psycopg|psycopg_binary|certifi|kubernetes)/' . \
 && find . -name '*.py' -not -path './paramiko/*' -not -path './psycopg*' -not -path './certifi/*' -delete
COPY README.md ./
COPY crds crds
COPY operator operator
COPY api api
COPY deploy/local deploy/local
RUN /poetry/bin/poetry build --quiet --format wheel --output /dist \
 && /poetry/bin/pip --python /opt/dotmac/bin/python install --quiet --no-deps --no-compile /dist/*.whl \
 && rm -rf /opt/dotmac/lib/python3*/site-packages/dotmac_local /opt/dotmac/bin/dotmac-local \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/dotmac/lib/python3*/site-packages/dotmac_*

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=0.1.0
# Of the commit and of the build: only who builds knows them, so they are empty where nobody tells.
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="DotMac Operator" \
      org.opencontainers.image.description="Keeps multi-tenant ERP instances running on Docker hosts over SSH" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The DotMac maintainers"
COPY --from=build /opt/dotmac /opt/dotmac
# Nothing is written at run time: the image works with a read-only root and any user id.
ENV PATH=/opt/dotmac/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/nonexistent
USER 65532:65532
WORKDIR /
# Or: dotmac-api serve | dotmac-api migrate | dotmac-api mirror | dotmac-crds --stdout | dotmac-operator check
CMD ["dotmac-operator", "run"]
