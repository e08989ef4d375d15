"""The least that a Kopf operator can be, to compare with: it counts the objects that its one handler was told of.

Environment: NOTES as in noted_operator.py; OBJECTS is `group/version/plural`; NAMESPACE.
"""

import json
import os
import threading
import time
from typing import Any

import kopf

GROUP, VERSION, PLURAL = os.environ.get("OBJECTS", "a/b/c").split("/")
known: set[str] = set()


@kopf.on.event(GROUP, VERSION, PLURAL)
async def told(name: str, **_: Any) -> None:
    known.add(name)


@kopf.on.startup()
def quietly(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True


def note() -> None:
    with open(os.environ["NOTES"], "a") as file:
        while True:
            spent = os.times()
            told_so_far = {"known": len(known), "cpu": spent.user + spent.system, "at": time.time()}
            file.write(json.dumps(told_so_far) + "\n")
            file.flush()
            time.sleep(0.1)


if __name__ == "__main__":
    threading.Thread(target=note, daemon=True).start()
    kopf.run(standalone=True, namespaces=[os.environ["NAMESPACE"]])
