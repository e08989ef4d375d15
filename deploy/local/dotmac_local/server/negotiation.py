"""Accept and Content-Type, as clients of Kubernetes use them."""

from __future__ import annotations

from dataclasses import dataclass

from dotmac_local.errors import not_acceptable

ACCEPTED = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")


@dataclass(frozen=True)
class Form:
    """The form of an answer: its media type, and a transformation such as Table ("" for none)."""

    media_type: str = "application/json"
    transform: str = ""
    group: str = ""
    version: str = ""

    @property
    def content_type(self) -> str:
        if not self.transform or self.group != "apidiscovery.k8s.io":
            return self.media_type
        return f"{self.media_type};g={self.group};v={self.version};as={self.transform}"


_TRANSFORMS = {
    ("Table", "meta.k8s.io", "v1"),
    ("PartialObjectMetadata", "meta.k8s.io", "v1"),
    ("PartialObjectMetadataList", "meta.k8s.io", "v1"),
}
DISCOVERY = {("APIGroupDiscoveryList", "apidiscovery.k8s.io", version) for version in ("v2", "v2beta1")}


def negotiate(accept: str, transforms: set[tuple[str, str, str]] = _TRANSFORMS) -> Form:
    """The first form in an Accept header that this server has; raises ApiError 406."""
    for part in (accept or "*/*").split(","):
        media_type, *pairs = (piece.strip() for piece in part.split(";"))
        parameters = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if media_type in ("*/*", "application/*", "application/json", "application/yaml"):
            concrete = "application/yaml" if media_type == "application/yaml" else "application/json"
            wanted = (parameters.get("as", ""), parameters.get("g", ""), parameters.get("v", ""))
            if not wanted[0]:
                return Form(concrete)
            if wanted in transforms:
                return Form(concrete, *wanted)
    raise not_acceptable(ACCEPTED)
