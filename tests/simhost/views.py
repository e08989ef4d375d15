"""What the Engine API says of the objects: JSON as dockerd 20.10 (API 1.41) writes it."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tests.simhost.engine import Engine
from tests.simhost.objects import Container, Endpoint, Image, Json, Mount, Network, Volume

NEVER = "0001-01-01T00:00:00Z"
DATA_ROOT = "/var/lib/docker"


def rfc3339(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z" if at else NEVER


def human(seconds: float) -> str:
    """As Docker rounds a time for people. Source: docker/go-units, duration.go."""
    second, minute, hour = int(seconds), int(seconds / 60), int(seconds / 3600 + 0.5)
    if second < 1:
        return "Less than a second"
    if second == 1:
        return "1 second"
    if second < 60:
        return f"{second} seconds"
    if minute == 1:
        return "About a minute"
    if minute < 60:
        return f"{minute} minutes"
    if hour == 1:
        return "About an hour"
    if hour < 48:
        return f"{hour} hours"
    days = hour // 24
    return f"{days} days" if days < 14 else f"{days // 7} weeks" if days < 60 else f"{days // 30} months"


def status(container: Container) -> str:
    now = time.time()
    if container.state in ("running", "paused"):
        health = {"starting": " (health: starting)", "": ""}.get(container.health, f" ({container.health})")
        tail = " (Paused)" if container.state == "paused" else health
        return f"Up {human(now - container.started)}{tail}"
    if container.state == "restarting":
        return f"Restarting ({container.exit_code}) {human(now - container.finished)} ago"
    if container.state == "created":
        return "Created"
    return f"Exited ({container.exit_code}) {human(now - container.finished)} ago"


def listed(engine: Engine, container: Container) -> Json:
    """One entry of `GET /containers/json`."""
    image = str(container.body["Image"])
    found = engine.images.find(image)
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        # A name that means another image by now is not told.
        "Image": image if found is container.image else container.image.id,
        "ImageID": container.image.id,
        "Command": " ".join(container.argv),
        "Created": int(container.created),
        "Ports": _ports(container),
        "Labels": container.labels,
        "State": container.state,
        "Status": status(container),
        "HostConfig": {"NetworkMode": container.host_config.get("NetworkMode") or "default"},
        "NetworkSettings": {"Networks": _ends(engine, container, listed=True)},
        "Mounts": [_mount(mount) for mount in container.mounts],
    }


def _ports(container: Container) -> list[Json]:
    if not container.alive:
        return []
    made = []
    for port, bindings in (container.host_config.get("PortBindings") or {}).items():
        number, _, kind = port.partition("/")
        for one in bindings or ():
            bound = {"IP": one.get("HostIp") or "0.0.0.0", "PublicPort": int(one["HostPort"])}  # noqa: S104
            made.append({"PrivatePort": int(number), "Type": kind or "tcp", **bound})
    return made


def _ends(engine: Engine, container: Container, *, listed: bool = False) -> Json:
    made = {}
    for name, end in container.endpoints.items():
        network = engine.networks.find(name)
        made[name] = _end(network, end, container, listed=listed)
    return made


def _end(network: Network | None, end: Endpoint, container: Container, *, listed: bool) -> Json:
    subnet = network.range if network is not None and end.address else None
    own = [container.id[:12]] if end.known and network is not None and network.name != "bridge" else []
    aliases = None if listed or not (end.aliases or own) else [*end.aliases, *own]
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": aliases,
        "NetworkID": network.id if network is not None and end.known else "",
        "EndpointID": end.id,
        "Gateway": str(next(subnet.hosts())) if subnet is not None and network and not network.internal else "",
        "IPAddress": end.address,
        "IPPrefixLen": subnet.prefixlen if subnet is not None else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": _mac(end.address),
        "DriverOpts": None,
    }


def _mac(address: str) -> str:
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split(".")) if address else ""


def _mount(mount: Mount) -> Json:
    made: Json = {"Type": mount.kind}
    if mount.kind == "volume":
        made |= {"Name": mount.source, "Driver": "local"}
    source = f"{DATA_ROOT}/volumes/{mount.source}/_data" if mount.kind == "volume" else mount.source
    return {
        **made,
        "Source": source,
        "Destination": mount.target,
        "Mode": "z" if mount.kind == "volume" else "",
        "RW": not mount.read_only,
        "Propagation": "" if mount.kind == "volume" else "rprivate",
    }


def inspected(engine: Engine, container: Container) -> Json:
    """`GET /containers/{id}/json`."""
    argv = container.argv
    return {
        "Id": container.id,
        "Created": rfc3339(container.created),
        "Path": argv[0] if argv else "",
        "Args": argv[1:],
        "State": _state(container),
        "Image": container.image.id,
        "Name": f"/{container.name}",
        "RestartCount": container.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "AppArmorProfile": "",
        "ExecIDs": [run.id for run in engine.execs.values() if run.container == container.id and run.running] or None,
        "HostConfig": _host_config(container),
        "Mounts": [_mount(mount) for mount in container.mounts],
        "Config": _config(container),
        "NetworkSettings": {
            "Bridge": "",
            "Ports": _bound(container),
            **_default_bridge(engine, container),
            "Networks": _ends(engine, container),
        },
    }


def _default_bridge(engine: Engine, container: Container) -> Json:
    end = container.endpoints.get("bridge")
    return {"IPAddress": end.address if end else "", "EndpointID": end.id if end else ""}


def _bound(container: Container) -> Json:
    exposed = {port: None for port in container.body.get("ExposedPorts") or ()}
    return {**exposed, **(container.host_config.get("PortBindings") or {})} if container.alive else {}


def _state(container: Container) -> Json:
    made: Json = {
        "Status": container.state,
        "Running": container.alive or container.state == "restarting",
        "Paused": container.state == "paused",
        "Restarting": container.state == "restarting",
        "OOMKilled": container.oom,
        "Dead": False,
        "Pid": container.pid,
        "ExitCode": container.exit_code if container.state != "running" else 0,
        "Error": container.error,
        "StartedAt": rfc3339(container.started),
        "FinishedAt": rfc3339(container.finished),
    }
    if container.check is not None and container.health:
        made["Health"] = {"Status": container.health, "FailingStreak": container.failing, "Log": []}
    return made


_HOST_DEFAULTS: Json = {
    "Binds": None, "ContainerIDFile": "", "LogConfig": {"Type": "json-file", "Config": {}}, "NetworkMode": "default",
    "PortBindings": None, "RestartPolicy": {"Name": "", "MaximumRetryCount": 0}, "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None, "CapAdd": None, "CapDrop": None, "CgroupnsMode": "host", "Dns": None, "DnsOptions": None,
    "DnsSearch": None, "ExtraHosts": None, "GroupAdd": None, "IpcMode": "private", "Privileged": False, "PidMode": "",
    "PublishAllPorts": False, "ReadonlyRootfs": False, "SecurityOpt": None, "ShmSize": 67108864, "Runtime": "runc",
    "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CpuPeriod": 0, "CpuQuota": 0, "CpusetCpus": "", "Devices": None,
    "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": None, "OomKillDisable": False, "PidsLimit": None,
    "Ulimits": None, "BlkioWeight": 0, "CgroupParent": "", "OomScoreAdj": 0, "UsernsMode": "",
}  # fmt: skip


def _host_config(container: Container) -> Json:
    made = _HOST_DEFAULTS | container.host_config
    policy = made.get("RestartPolicy") or {}
    made["RestartPolicy"] = {"Name": policy.get("Name") or "no", "MaximumRetryCount": 0, **_without(policy, "Name")}
    return made


def _without(found: Json, key: str) -> Json:
    return {name: value for name, value in found.items() if name != key}


def _config(container: Container) -> Json:
    body, image = container.body, container.image.config
    env = [*(body.get("Env") or ())]
    named = {entry.partition("=")[0] for entry in env}
    env += [entry for entry in image.get("Env") or () if entry.partition("=")[0] not in named]
    made: Json = {
        "Hostname": body.get("Hostname") or container.id[:12],
        "Domainname": "",
        "User": body.get("User") or image.get("User") or "",
        "AttachStdin": False,
        "AttachStdout": bool(body.get("AttachStdout")),
        "AttachStderr": bool(body.get("AttachStderr")),
        "Tty": bool(body.get("Tty")),
        "OpenStdin": bool(body.get("OpenStdin")),
        "StdinOnce": False,
        "Env": env or None,
        "Cmd": container.command or None,
        "Image": body["Image"],
        "Volumes": body.get("Volumes") or image.get("Volumes"),
        "WorkingDir": body.get("WorkingDir") or image.get("WorkingDir") or "",
        "Entrypoint": container.entrypoint or None,
        "OnBuild": None,
        "Labels": container.labels,
    }
    for key in ("StopSignal", "StopTimeout", "Healthcheck", "ExposedPorts"):
        found = body.get(key) if body.get(key) is not None else image.get(key)
        if found is not None:
            made[key] = found
    return made


def network(found: Network, containers: Iterable[Container] | None = None) -> Json:
    """One entry of `GET /networks`; with `containers`, the whole of `GET /networks/{id}`."""
    ranges: list[Json] = []
    if found.range is not None:
        ranges = [{"Subnet": found.subnet}]
        if found.name == "bridge":
            ranges[0]["Gateway"] = str(next(found.range.hosts()))
    attached = {
        c.id: {
            "Name": c.name,
            "EndpointID": c.endpoints[found.name].id,
            "MacAddress": _mac(c.endpoints[found.name].address),
            "IPv4Address": f"{c.endpoints[found.name].address}/{found.range.prefixlen if found.range else 0}",
            "IPv6Address": "",
        }
        for c in containers or ()
        if c.alive and found.name in c.endpoints
    }
    return {
        "Name": found.name,
        "Id": found.id,
        "Created": rfc3339(found.created),
        "Scope": "local",
        "Driver": found.driver,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": ranges},
        "Internal": found.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": attached,
        "Options": found.options,
        "Labels": found.labels,
    }


def volume(found: Volume) -> Json:
    return {
        "CreatedAt": f"{datetime.fromtimestamp(found.created, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "Driver": found.driver,
        "Labels": found.labels or None,
        "Mountpoint": f"{DATA_ROOT}/volumes/{found.name}/_data",
        "Name": found.name,
        "Options": found.options or None,
        "Scope": "local",
    }


def image(found: Image) -> Json:
    """`GET /images/{name}/json`."""
    return {
        "Id": found.id,
        "RepoTags": found.tags,
        "RepoDigests": found.digests,
        "Parent": "",
        "Comment": "",
        "Created": rfc3339(found.created),
        "DockerVersion": "",
        "Author": "",
        "Config": {"Env": None, "Cmd": None, "Entrypoint": None, "Labels": None, **found.config},
        "Architecture": "amd64",
        "Os": "linux",
        "Size": found.size,
        "VirtualSize": found.size,
        "RootFS": {"Type": "layers", "Layers": [found.id]},
        "Metadata": {"LastTagTime": NEVER},
    }


def image_listed(found: Image, containers: int) -> Json:
    return {
        "Containers": containers,
        "Created": int(found.created),
        "Id": found.id,
        "Labels": found.config.get("Labels"),
        "ParentId": "",
        "RepoDigests": found.digests or None,
        "RepoTags": found.tags or None,
        "SharedSize": -1,
        "Size": found.size,
        "VirtualSize": found.size,
    }


def usage(engine: Engine) -> Json:
    """`GET /system/df`."""
    uses = [m.source for c in engine.containers.values() for m in c.mounts]
    images = engine.images.all.values()
    users = [c.image.id for c in engine.containers.values()]
    return {
        "LayersSize": sum(found.size for found in images),
        "Images": [image_listed(found, users.count(found.id)) for found in images],
        "Containers": [{**listed(engine, c), "SizeRootFs": 0} for c in engine.containers.values()],
        "Volumes": [
            {
                **volume(found),
                "UsageData": {"RefCount": uses.count(found.name), "Size": sum(map(len, found.files.values()))},
            }
            for found in engine.volumes.all.values()
        ],
        "BuildCache": None,
        "BuilderSize": 0,
    }


def stats(container: Container, *, alone: bool = False) -> Json:
    """`GET /containers/{id}/stats`: a program that takes a hundredth of a processor and a sixteenth of its memory."""
    now, limit = time.time(), int(container.host_config.get("Memory") or 8 * 2**30)
    spent = int((now - container.started) * 1e7) if container.alive else 0
    before = max(0, spent - 10**7)
    cpu: dict[str, Any] = {"throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}}

    def own(nanoseconds: int) -> Json:
        return {"total_usage": nanoseconds, "usage_in_kernelmode": 0, "usage_in_usermode": nanoseconds}

    def used(nanoseconds: int, at: float) -> Json:
        return {**cpu, "cpu_usage": own(nanoseconds), "system_cpu_usage": int(at * 4e9), "online_cpus": 4}

    empty = not container.alive
    return {
        "read": rfc3339(now) if not empty else NEVER,
        "preread": rfc3339(now - 1) if not empty else NEVER,
        "pids_stats": {} if empty else {"current": 3},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": used(spent, now),
        "precpu_stats": {**cpu, "cpu_usage": own(0)} if alone else used(before, now - 1),
        "memory_stats": {} if empty else {"usage": limit // 16, "limit": limit, "stats": {"cache": 0}},
        "name": f"/{container.name}",
        "id": container.id,
    }
