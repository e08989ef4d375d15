"""Values that would do harm to whoever put them into a shell, a file or a header: they reach the container unchanged.

Each string field takes the worst that its schema admits. What a schema must not admit is refused by the API server.
"""

import copy
from collections.abc import Iterator

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "Bobby-Tables_1"
OBJECT = "bobby"

SHELL = '$(touch /tmp/owned) `id` ; rm -rf / && echo "pwn\'d" | cat > /dev/null & ${IFS} %s \\n #'
LINES = "first\nsecond=injected\r\n\tPATH=/evil\n\n--privileged"
DASHES = "--network=host -v /:/host"
UNICODE = "Ọ̀ṣun \u202e\u2028 \U0001f9ee 測試 ﷽ é"
EVIL = {
    "SHELL_": SHELL,
    "LINES": LINES,
    "DASHES": DASHES,
    "UNICODE": UNICODE,
    "EMPTY": "",
    "EQUALS": "a=b=c",
    "LONG": "x" * 4096,
}


def evil_release() -> releases.Object:
    """The page, whose command line, paths and fixed environment are hostile too."""
    made = releases.sample("evil", "1.0-x_y.z+1", releases.SAMPLE_1)
    spec = made["spec"]
    spec["env"] += [
        {"name": "R_SHELL", "value": SHELL},
        {"name": "R_LINES", "value": LINES},
        {"name": "FROM_CODE", "from": "orgCode"},
        {"name": "FROM_NAME", "from": "orgName"},
        {"name": "FROM_DOMAIN", "from": "domain"},
        {"name": "FROM_URL", "from": "url"},
        {"name": "FROM_EMAIL", "from": "admin.email"},
        {"name": "FROM_USER", "from": "admin.username"},
        {"name": "FROM_PASSWORD", "from": "admin.password"},
        {"name": "FROM_FEATURES", "from": "features"},
        {"name": "FROM_MODULES", "from": "modules"},
        {"name": "FROM_SETTING", "from": "setting.motto"},
        {"name": "FROM_CURRENCY", "from": "setting.currency"},
    ]
    spec["roles"].append(
        {
            "name": "clerk",
            "image": "app",
            "command": ["tini", "--", "sample-web"],
            "args": ["worker", SHELL, LINES, DASHES, UNICODE, ""],
        }
    )
    spec["volumes"].append({"name": "odd", "mountPath": "/srv/$(id) `x` ;'\"\\ é", "roles": ["web"]})
    spec["roles"][0]["health"]["http"]["path"] = "/healthz"
    return made


def evil_instance() -> releases.Object:
    made = releases.instance(
        OBJECT,
        "evil",
        orgCode=NAME,
        orgName=f"{SHELL} {DASHES} {UNICODE}"[:200].replace("\u2028", ""),
        domains=[{"host": f"{OBJECT}.two.example"}, {"host": "xn--1-1ga.x-" + "y" * 50 + ".example"}],
        serverRef={"name": "two"},
        admin={
            "email": "a'b$(id)`x`;--x@evil.example",
            "username": "a._@-b",
            "passwordSecretRef": {"name": "evil-secrets", "key": "password"},
        },
        settings={"currency": "XXX", "values": {"motto": LINES + SHELL}},
        env=[{"name": name, "value": value} for name, value in EVIL.items()]
        + [{"name": "KEYED", "secretKeyRef": {"name": "evil-secrets", "key": "-odd.Key_"}}],
        envFrom=[{"secretRef": {"name": "evil-from"}, "prefix": "PRE_"}],
        features={"a.b-c_D": True, "off": False},
        modules=["m.1-x_Y", "core"],
    )
    return made


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    platform.apply(
        releases.secret("evil-secrets", **{"password": SHELL + LINES, "-odd.Key_": UNICODE + LINES}),
        releases.secret("evil-from", A=SHELL, B=LINES, C=DASHES),
        evil_release(),
    )
    with platform.tenant(evil_instance()) as made:
        yield made


def environment(tenant: Tenant, role: str) -> dict[str, str]:
    """What the process itself has: read from its own /proc, so that no tool in between may change it."""
    raw = tenant.exec(role, "sh", "-c", "tr '\\0' '\\1' < /proc/self/environ")
    return dict(entry.split("=", 1) for entry in raw.split("\1") if "=" in entry)


@pytest.mark.parametrize("role", ["web", "worker", "clerk"])
def test_every_value_arrives_as_it_was_written(tenant: Tenant, role: str) -> None:
    spec = tenant.object["spec"]
    expected = {
        **EVIL,
        "R_SHELL": SHELL,
        "R_LINES": LINES,
        "FROM_CODE": NAME,
        "FROM_NAME": spec["orgName"],
        "ORG_NAME": spec["orgName"],
        "FROM_DOMAIN": spec["domains"][0]["host"],
        "FROM_URL": f"http://{OBJECT}.two.example:8080/",
        "FROM_EMAIL": spec["admin"]["email"],
        "FROM_USER": "a._@-b",
        "FROM_PASSWORD": SHELL + LINES,
        "FROM_FEATURES": '{"a.b-c_D": true, "off": false}',
        "FROM_MODULES": "core,m.1-x_Y",
        "FROM_SETTING": LINES + SHELL,
        "FROM_CURRENCY": "XXX",
        "KEYED": UNICODE + LINES,
        "PRE_A": SHELL,
        "PRE_B": LINES,
        "PRE_C": DASHES,
    }
    found = environment(tenant, role)
    assert {name: found.get(name) for name in expected} == expected
    assert "second" not in found, "a line of a value became a variable of its own"


def test_arguments_and_paths_arrive_as_they_were_written(tenant: Tenant) -> None:
    clerk = tenant.containers("clerk")[0]
    assert clerk["Config"]["Cmd"] == ["worker", SHELL, LINES, DASHES, UNICODE, ""]
    raw = tenant.exec("clerk", "sh", "-c", "tr '\\0' '\\1' < /proc/1/cmdline")
    assert raw.split("\1")[-7:-1] == ["worker", SHELL, LINES, DASHES, UNICODE, ""]
    web = tenant.containers("web")[0]
    assert "/srv/$(id) `x` ;'\"\\ é" in {mount["Destination"] for mount in web["Mounts"]}
    assert not web["HostConfig"]["Privileged"] and web["HostConfig"]["NetworkMode"] == f"dotmac-{NAME.lower()}"


def test_nothing_was_run_by_it(tenant: Tenant) -> None:
    assert tenant.host.in_namespace("sh", "-c", "ls /tmp/owned 2>/dev/null || true") == ""
    assert tenant.exec("web", "sh", "-c", "ls /tmp/owned 2>/dev/null || true") == ""
    assert tenant.ask().json()["requested"] == f"{OBJECT}.two.example"


REFUSED = [
    ("orgCode", "-rf"),
    ("orgCode", "a;b"),
    ("orgCode", "a\nb"),
    ("orgCode", "$(id)"),
    ("orgCode", "x" * 41),
    ("orgName", "two\nlines"),
    ("orgName", "nul\x00"),
    ("domains", [{"host": "-x.example"}]),
    ("domains", [{"host": "a b.example"}]),
    ("domains", [{"host": "evil.example/../x"}]),
    ("domains", [{"host": "{http.request.host}"}]),
    ("env", [{"name": "A=B", "value": "x"}]),
    ("env", [{"name": "$(id)", "value": "x"}]),
    ("env", [{"name": "LONG", "value": "x" * 4097}]),
    ("admin", {"email": "no at sign"}),
    ("admin", {"email": "a@b\nBcc: all"}),
    ("admin", {"email": "a@b", "username": "-x"}),
    ("settings", {"currency": "$$$"}),
    ("settings", {"values": {"a b": "x"}}),
    ("modules", ["a b"]),
    ("serverRef", {"name": "../two"}),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[f"{field}-{n}" for n, (field, _) in enumerate(REFUSED)])
def test_what_no_field_may_hold_is_refused(platform: Platform, field: str, value: object) -> None:
    refused = copy.deepcopy(releases.instance("refused", "sample-1", **{field: value}))
    answer = platform.try_apply(refused)
    assert answer.status_code in (400, 422), answer.text
    assert field in answer.json()["message"]
    assert platform.get("Instance", "refused") is None
