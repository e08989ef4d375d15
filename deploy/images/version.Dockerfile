# The same image under another version: what an upgrade needs to see.
ARG BASE
FROM ${BASE}
ARG VERSION
LABEL org.opencontainers.image.version=${VERSION}
ENV IMAGE_VERSION=${VERSION}
