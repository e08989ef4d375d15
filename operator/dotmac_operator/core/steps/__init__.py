"""The ten steps of an Instance, in order. A step is one file here and one line in `STEPS`."""

from dotmac_operator.core.steps import (
    backup,
    bootstrap,
    images,
    infra,
    migrate,
    preflight,
    route,
    secrets,
    start,
    verify,
)
from dotmac_operator.core.steps.base import Step

STEPS: tuple[Step, ...] = (
    preflight.STEP,
    secrets.STEP,
    backup.STEP,
    images.STEP,
    infra.STEP,
    migrate.STEP,
    start.STEP,
    bootstrap.STEP,
    route.STEP,
    verify.STEP,
)
