"""The reverse proxy: its container, and its configuration as plain JSON for Caddy 2.

One configuration holds the routes of every Instance of a host. A change is made to the configuration that the proxy
runs, and loaded whole, which Caddy does atomically. A route belongs to an Instance by its `group`, a word that Caddy
keeps. Source of the format: https://caddyserver.com/docs/json/
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dotmac_crds.server import Proxy, ServerSpec
from dotmac_operator.core import names, pages
from dotmac_operator.core.container import ContainerSpec, Limit
from dotmac_operator.core.digest import digest

type Config = dict[str, Any]

SHUTDOWN_DELAY = 1
"""Seconds between the moment a new configuration serves and the moment the connections that idle under the old one are
closed. Until then every answer under the old one says `Connection: close`, so that no client that asks more often than
this is cut while it asks. See ADR 0020. One without a tenant has no clients to take leave of, and is left at once."""
LINGER = SHUTDOWN_DELAY + 6
"""Seconds after a switch in which a request may still come in under the old configuration: the delay, and five for a
connection that was opened and has not asked yet. Source: net/http, Server.closeIdleConns."""
UPSTREAM_IDLE = 2
"""Seconds that a connection to a container is kept for the next request. Fewer than the servers of applications keep
theirs (gunicorn 2, uvicorn 5), or a POST would now and then meet a connection that is just being closed."""

ADMIN_SOCKET = "unix//run/caddy/admin.sock"
AUTOSAVE = "/config/caddy/autosave.json"
RELOAD_ARGV = ("caddy", "reload", "--config", "-", "--address", ADMIN_SOCKET, "--force")
"""Reads the new configuration from its standard input."""
PLAIN, SECURE = "plain", "secure"
PAGE_HEADER = "X-Dotmac-State"
"""Tells programs which page they got, and us which one the proxy serves."""
REFUSAL: Config = {"handle": [{"handler": "static_response", "status_code": 404}]}
"""The last route. Without it Caddy answers 200 under a name that nobody has, which step verify would take for good."""


FAREWELL: Config = {
    "match": [{"vars": {"{http.shutting_down}": ["true"]}}],
    "handle": [{"handler": "headers", "response": {"deferred": True, "set": {"Connection": ["close"]}}}],
}
"""The first route: what a configuration that was replaced tells the clients that still have it."""


@dataclass(frozen=True)
class Route:
    """How requests reach one Instance."""

    owner: str
    """UID of the Instance."""
    hosts: tuple[tuple[str, str], ...]
    """(host name, TLS mode Acme|Internal|Off), in the order of the spec."""
    upstreams: tuple[str, ...]
    """`container:port`, by name on the tenant's network."""
    since: int = field(default=0, compare=False)
    """Unix seconds when it was switched to these upstreams; it is kept in the proxy's configuration. 0: unknown."""
    page: str = ""
    """Name of the page that is answered in place of upstreams; empty: none."""

    def digest(self) -> str:
        return digest([self.hosts, self.upstreams, *filter(None, [self.page])])


def group(route: Route) -> str:
    """`dotmac-<uid>@<since>`."""
    return f"dotmac-{route.owner}@{route.since}"


def base_config(proxy: Proxy, turn: int = 0) -> Config:
    """The configuration without a tenant. `turn` is 0 or 1, see `turned`."""
    servers: Config = {
        # Certificates and redirects are said explicitly, per route; Caddy must not guess them from host names.
        PLAIN: {"listen": _listen(80, PLAIN, turn), "automatic_https": {"disable": True}, "routes": [FAREWELL, REFUSAL]}
    }
    apps: Config = {"http": {"http_port": 80, "https_port": 443, "grace_period": "30s", "servers": servers}}
    if proxy.tls.mode != "Off":
        _add_secure(servers, turn)
        apps["tls"] = _tls(proxy, {})
    return {"admin": {"listen": ADMIN_SOCKET}, "apps": apps}


def parse(text: str | None) -> Config | None:
    """The running configuration, or None when there is none or it is not ours to understand."""
    try:
        found = json.loads(text or "")
        found["apps"]["http"]["servers"][PLAIN]["routes"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def render(config: Config) -> bytes:
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def turn_of(config: Config | None) -> int:
    listened = config["apps"]["http"]["servers"][PLAIN].get("listen", []) if config else []
    return int(_socket(PLAIN, 1) in listened)


def turned(config: Config) -> Config:
    """`config` such that the one before it takes leave of its clients.

    Caddy means to wait `shutdown_delay` only when an address of the old configuration is listened to no more (2.6 waits
    always). So each server has one more, a socket that nobody uses, which changes its name.
    Source: caddyhttp, App.Stop.
    """
    made = _opened(config)
    turn = 1 - turn_of(config)
    for name, server in made["apps"]["http"]["servers"].items():
        server["listen"] = _listen(443 if name == SECURE else 80, name, turn)
    return made


def with_route(config: Config, route: Route, proxy: Proxy) -> Config:
    """`config` with this Instance's route in place of its old one. Other Instances' routes stay as they are."""
    made = without_route(config, route.owner)
    made["apps"]["http"]["shutdown_delay"] = f"{SHUTDOWN_DELAY}s"
    servers = made["apps"]["http"]["servers"]
    plain = [host for host, mode in route.hosts if mode == "Off"]
    secure = [host for host, mode in route.hosts if mode != "Off"]
    if plain:
        _append(servers[PLAIN], _forward(route, plain))
    if secure:
        _append(servers[PLAIN], _redirect(route, secure, proxy.https_port))
        _add_secure(servers, turn_of(config))
        _append(servers[SECURE], _forward(route, secure))
        made["apps"]["tls"] = _tls(proxy, _modes(made) | {host: mode for host, mode in route.hosts if mode != "Off"})
    return made


def without_route(config: Config, owner: str) -> Config:
    made = _opened(config)
    for server in made["apps"]["http"]["servers"].values():
        server["routes"] = [route for route in server.get("routes", []) if owner_of(route) != owner]
    _forget_subjects(made)
    if not any(owner_of(route) for _, route in _routes(made, None)):
        made["apps"]["http"].pop("shutdown_delay", None)
    return made


def _opened(config: Config) -> Config:
    """A copy whose servers and policies may be changed. Routes are shared: nothing here changes one in place, and a
    deep copy of a full host's configuration for each of its routes would take a second."""
    apps = dict(config["apps"])
    apps["http"] = dict(apps["http"])
    apps["http"]["servers"] = {name: dict(server) for name, server in apps["http"]["servers"].items()}
    if _policies(config):
        policies = [dict(policy) for policy in _policies(config)]
        apps["tls"] = apps["tls"] | {"automation": apps["tls"]["automation"] | {"policies": policies}}
    return config | {"apps": apps}


def _forget_subjects(config: Config) -> None:
    """No certificates for names that are served no more."""
    served = _secure_hosts(config)
    for policy in _policies(config):
        if "subjects" in policy:
            policy["subjects"] = [subject for subject in policy["subjects"] if subject in served]
    if _policies(config):
        kept = [policy for policy in _policies(config) if policy.get("subjects", True)]
        config["apps"]["tls"]["automation"]["policies"] = kept


def rebase(config: Config, proxy: Proxy) -> Config:
    """The routes of `config` on the base that the Server's spec asks for; equal to `config` when it has it already."""
    made = base_config(proxy, turn_of(config))
    owners = dict.fromkeys(owner_of(route) for _, route in _routes(config, None))
    for owner in owners:
        route = route_of(config, owner) if owner else None
        if route is not None:
            made = with_route(made, route, proxy)
    return made


def route_of(config: Config | None, owner: str) -> Route | None:
    """The route that this Instance has in the running configuration."""
    if config is None:
        return None
    modes = _modes(config)
    hosts: list[tuple[str, str]] = []
    upstreams: tuple[str, ...] = ()
    since = 0
    page = ""
    for _, route in _routes(config, owner):
        since = _since(route)
        handler = route["handle"][0]
        if handler.get("handler") == "reverse_proxy":
            hosts += [(host, modes.get(host, "Off")) for host in _hosts(route)]
            upstreams = tuple(upstream["dial"] for upstream in handler["upstreams"])
        elif told := handler.get("headers", {}).get(PAGE_HEADER):
            hosts += [(host, modes.get(host, "Off")) for host in _hosts(route)]
            page = told[0]
    return Route(owner, tuple(hosts), upstreams, since, page) if hosts else None


def same(observed: Route | None, desired: Route) -> bool:
    """Whether the observed route is the desired one; the order of the host names does not matter."""
    return (
        observed is not None
        and sorted(observed.hosts) == sorted(desired.hosts)
        and (observed.upstreams, observed.page) == (desired.upstreams, desired.page)
    )


def owner_of_host(config: Config | None, host: str) -> str | None:
    """UID of the Instance that the running configuration serves under this host name."""
    for _, route in _routes(config, None):
        if host in _hosts(route):
            return owner_of(route)
    return None


def container(server: ServerSpec, server_uid: str) -> ContainerSpec:
    """The proxy's container: the only one on the host with published ports."""
    proxy = server.proxy
    bind = proxy.bind_address
    ports = {"80/tcp": (bind, proxy.http_port)}
    if proxy.tls.mode != "Off":
        ports["443/tcp"] = (bind, proxy.https_port)
    return ContainerSpec(
        base_name=names.PROXY_CONTAINER,
        role=names.PROXY,
        image=proxy.image,
        network=names.PROXY_NETWORK,
        aliases=(names.PROXY,),
        limit=Limit(cpu="1", memory="256Mi", pids=256),
        mounts={"/config": names.PROXY_CONFIG_VOLUME, "/data": names.PROXY_DATA_VOLUME},
        capabilities=("NET_BIND_SERVICE",),
        stop_grace=35,
        single=True,
        ports=ports,
        labels={names.MANAGED_BY: names.OPERATOR, names.SERVER_UID: server_uid},
    )


def owner_of(route: Config) -> str:
    """UID of the Instance whose route this is; empty for the proxy's own."""
    return str(route.get("group", "")).removeprefix("dotmac-").partition("@")[0]


def _since(route: Config) -> int:
    told = str(route.get("group", "")).partition("@")[2]
    return int(told) if told.isdecimal() else 0


def _socket(server: str, turn: int) -> str:
    return f"unix//run/caddy/{server}-{turn}.sock"


def _listen(port: int, server: str, turn: int) -> list[str]:
    return [f":{port}", _socket(server, turn)]


def _add_secure(servers: Config, turn: int) -> None:
    # Certificates come from the tls app's `automate` list; redirects are routes of ours.
    servers.setdefault(
        SECURE,
        {
            "listen": _listen(443, SECURE, turn),
            "automatic_https": {"disable_redirects": True},
            "tls_connection_policies": [{}],
            "routes": [FAREWELL, REFUSAL],
        },
    )


def _append(server: Config, route: Config) -> None:
    server["routes"] = [*(other for other in server["routes"] if other != REFUSAL), route, REFUSAL]


def _forward(route: Route, hosts: list[str]) -> Config:
    handler = _page(route.page) if route.page else _upstreams(route)
    return {"group": group(route), "match": [{"host": hosts}], "handle": [handler], "terminal": True}


def _upstreams(route: Route) -> Config:
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": upstream} for upstream in route.upstreams],
        "transport": {"protocol": "http", "keep_alive": {"idle_timeout": f"{UPSTREAM_IDLE}s"}},
        # What failed to connect is tried on another container. A request that may have been seen by one is repeated
        # only when it is a GET, which is Caddy's own rule.
        "load_balancing": {"selection_policy": {"policy": "least_conn"}, "try_duration": "5s", "try_interval": "100ms"},
    }


def _page(name: str) -> Config:
    page = pages.PAGES.get(name, pages.SUSPENDED)
    headers = {"Content-Type": ["text/html; charset=utf-8"], "Cache-Control": ["no-store"], PAGE_HEADER: [page.name]}
    if page.retry_after:
        headers["Retry-After"] = [str(page.retry_after)]
    return {"handler": "static_response", "status_code": page.status, "headers": headers, "body": page.body}


def _redirect(route: Route, hosts: list[str], port: int) -> Config:
    suffix = "" if port == 443 else f":{port}"
    location = "https://{http.request.host}" + suffix + "{http.request.uri}"
    handler = {"handler": "static_response", "status_code": 308, "headers": {"Location": [location]}}
    return {"group": group(route), "match": [{"host": hosts}], "handle": [handler], "terminal": True}


def _tls(proxy: Proxy, modes: dict[str, str]) -> Config:
    """Issuers: a policy for the names that want another one than the Server's, and the Server's for all others."""
    acme: Config = {"module": "acme"}
    if proxy.tls.email:
        acme["email"] = proxy.tls.email
    if proxy.tls.acme_directory:
        acme["ca"] = proxy.tls.acme_directory
    issuers = {"Acme": acme, "Internal": {"module": "internal"}}
    usual, other = ("Internal", "Acme") if proxy.tls.mode == "Internal" else ("Acme", "Internal")
    subjects = sorted(host for host, mode in modes.items() if mode == other)
    policies: list[Config] = [{"subjects": subjects, "issuers": [issuers[other]]}] if subjects else []
    policies.append({"issuers": [issuers[usual]]})
    return {"automation": {"policies": policies}}


def _policies(config: Config) -> list[Config]:
    found: list[Config] = config["apps"].get("tls", {}).get("automation", {}).get("policies", [])
    return found


def _mode(policy: Config) -> str:
    return "Internal" if any(issuer.get("module") == "internal" for issuer in policy.get("issuers", [])) else "Acme"


def _secure_hosts(config: Config) -> set[str]:
    secure = config["apps"]["http"]["servers"].get(SECURE, {})
    return {host for route in secure.get("routes", []) for host in _hosts(route)}


def _modes(config: Config) -> dict[str, str]:
    """TLS mode of each host name that is served by TLS."""
    policies = _policies(config)
    named = {subject: _mode(policy) for policy in policies for subject in policy.get("subjects", [])}
    usual = next((_mode(policy) for policy in policies if "subjects" not in policy), "Acme")
    return {host: named.get(host, usual) for host in _secure_hosts(config)}


def _routes(config: Config | None, owner: str | None) -> Iterator[tuple[str, Config]]:
    if config is None:
        return
    for name, server in config["apps"]["http"]["servers"].items():
        for route in server.get("routes", []):
            if owner is None or owner_of(route) == owner:
                yield name, route


def _hosts(route: Config) -> list[str]:
    return [host for match in route.get("match", []) for host in match.get("host", [])]
