"""How the demo talks: lines with the time since the start, and failures that say which part, why, and what to do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kubernetes.client.exceptions import ApiException
from rich.console import Console
from rich.markup import escape
from urllib3.exceptions import HTTPError

from dotmac_local.demo.images import ImageBuildFailed
from dotmac_local.demo.processes import CommandFailed, DaemonFailed

console = Console(stderr=True, highlight=False, soft_wrap=True)
_began = time.monotonic()


class PartFailed(RuntimeError):  # noqa: N818 - reads as the sentence it is
    """One part of the demo failed."""

    def __init__(self, part: str, why: str, remedy: str) -> None:
        super().__init__(f"{part}: {why}")
        self.part, self.why, self.remedy = part, why, remedy


def say(line: str, *, style: str = "") -> None:
    """One line with the seconds since the start."""
    text = escape(line)
    console.print(
        f"[dim]\\[{time.monotonic() - _began:6.1f} s][/dim] " + (f"[{style}]{text}[/{style}]" if style else text)
    )


def show_failure(failed: PartFailed) -> None:
    """Which part, why, what to do."""
    console.print(f"\n[bold red]The demo could not be completed: {escape(failed.part)}[/bold red]")
    console.print(f"  why:  {escape(failed.why)}")
    console.print(f"  next: {escape(failed.remedy)}")


@contextmanager
def part(name: str, remedy: str) -> Iterator[None]:
    """Turn what may go wrong in one part into PartFailed with this remedy."""
    try:
        yield
    except PartFailed:
        raise
    except ApiException as refused:
        raise PartFailed(
            name, f"the API server answered {refused.status} {refused.reason}: {refused.body}", remedy
        ) from refused
    except HTTPError as unreachable:
        raise PartFailed(name, f"the API server cannot be reached: {unreachable}", remedy) from unreachable
    except (CommandFailed, DaemonFailed, ImageBuildFailed, OSError) as failed:
        raise PartFailed(name, str(failed), remedy) from failed
