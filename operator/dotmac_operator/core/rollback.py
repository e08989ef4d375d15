"""Undoing a failed change: what served before serves again, alone, and on a database that it can live with.

First `undo`, until nothing is left of it; then `database`. Both are asked in every pass as long as the failed change is
what the spec says, so drift of the previous version is repaired like any other. See ADR 0012.
"""

from collections.abc import Iterator
from dataclasses import replace

from dotmac_operator.core import drain, names, proxy, restore
from dotmac_operator.core.actions import (
    Action,
    ConnectNetwork,
    RemoveContainer,
    RunContainer,
    SetRoute,
    StartContainer,
    StopContainer,
    VerifyRoute,
)
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.proxy import Route
from dotmac_operator.core.repair import repairs, revive
from dotmac_operator.core.restore import Dump
from dotmac_operator.core.steps import backup, infra
from dotmac_operator.core.steps.base import MET, Verdict, act, failed, wait
from dotmac_operator.core.view import View

PATIENCE = 90.0
"""Seconds that the previous version may take to answer before its database is set back: as long as step verify gives a
new one. A restore displaces what was written since the dump, so a short disturbance must not cause one."""
BACK = "the previous version must serve"
FAILED = "its version failed"


def undo(view: View) -> tuple[Action, ...]:
    """What is left to do until the previous version runs alone; empty when it does."""
    if not view.way_back and not any(spec.role not in names.OWN_ROLES for _, spec in _lost(view)):
        return ()  # nothing else could serve, so what there is stays for somebody to look at
    if _restoring(view):
        return ()
    back = tuple(_route_back(view))
    switching = any(isinstance(action, SetRoute) for action in back)
    todo = (*_database_back(view), *serve_again(view), *back, *_remove_new(view, switching))
    # Last and alone: what is asked again and again must not keep anything else waiting.
    return todo or tuple(drain.counts(view, failed_version(view)))


def database(view: View) -> Verdict:
    """What is left to do about the database once `undo` is empty: `met` when the previous version can be left alone."""
    if not view.way_back:
        return MET
    shot = _restore(view)
    found = view.container(shot) if shot is not None else None
    if shot is not None and found is not None:
        return _restored(view, shot, found)
    if shot is not None and _begun(view) and view.desired.migrate_on_failure != "Keep":
        if view.desired.migrate_on_failure == "Restore" or _given_up(view):
            return act(*_stop(view), RunContainer("the database is set back to the dump before the change", shot))
        if not view.verified_back:
            return _ask(view)
    return _tidy(view)


def lost(view: View) -> tuple[str, ...]:
    """Containers of the previous version that are gone and cannot be made again from anything that is known."""
    rebuilt = {name for name, _ in _lost(view)}
    return tuple(name for name in _missing(view) if name not in rebuilt)


def set_back(view: View) -> str:
    """What to tell about a restore that this failure has caused; empty when there was none."""
    shot, dump = _restore(view), _dump(view)
    if shot is None or dump is None or not view.done(names.RESTORE, shot.hash):
        return ""
    kept = restore.displaced(dump, _key(view))
    return f"the database was set back to {dump.file}; what was written since is kept in its database {kept}"


# -- the containers --------------------------------------------------------------------------------------------


def _serving(view: View) -> tuple[ContainerFact, ...]:
    return tuple(c for c in view.containers if view.served_once(c))


def _missing(view: View) -> tuple[str, ...]:
    there = {view.made_name(container) for container in _serving(view)}
    return tuple(name for name in view.record.serving or () if name not in there)


def _lost(view: View) -> Iterator[tuple[str, ContainerSpec]]:
    """Containers of the previous version that are gone, with what they can be made from: the Release that served, or,
    where the failed change left them as they were, the one that is desired."""
    known = {spec.name: spec for made in (view.before, view.desired) if made is not None for spec in made.long_running}
    if any(view.volume(volume) is None for volume in view.data_volumes):
        return  # Docker would make it anew, empty
    for name in _missing(view):
        if name in known:
            yield name, known[name]


def _database_back(view: View) -> Iterator[Action]:
    """The servers of the failed version go before those of the previous one start: both use the same data."""
    for spec in view.desired.infrastructure:
        new = view.container(spec)
        if new is not None and not view.served_once(new) and any(view.served_once(c) for c in view.of_role(spec.role)):
            yield RemoveContainer(FAILED, new.name, grace=60)


def serve_again(view: View) -> Iterator[Action]:
    """What the containers that were verified last need to run, as far as it is known what they were made from."""
    yield from infra.missing_network(view)
    for name, spec in _lost(view):
        yield RunContainer(f"{BACK}, and {name} is gone", view.pinned(spec))
    specs = {spec.name: spec for made in (view.before, view.desired) if made for spec in made.long_running}
    order = {names.DATABASE: 0, names.CACHE: 1}
    for container in sorted(_serving(view), key=lambda c: (order.get(c.labels.get(names.ROLE, ""), 2), c.name)):
        name = view.made_name(container)
        if name in specs:
            yield from repairs(view.pinned(specs[name]), container)
        elif container.state == "dead":
            yield RemoveContainer("it is dead", container.name, grace=0)
        else:
            yield from revive(name, container, view.desired.network)


def _route_back(view: View) -> Iterator[Action]:
    exposed = sorted((c for c in _serving(view) if names.PORT in c.labels), key=view.made_name)
    if not exposed or view.config is None or view.proxy is None:
        return
    if view.desired.network not in view.proxy.networks:
        yield ConnectNetwork("the proxy cannot reach the tenant", view.desired.network, view.proxy.name)
    upstreams = tuple(f"{view.made_name(container)}:{container.labels[names.PORT]}" for container in exposed)
    back = Route(view.desired.tenant.uid, view.desired.route.hosts, upstreams, int(view.now))
    if not proxy.same(view.route, back):
        yield SetRoute(BACK, back)


def failed_version(view: View) -> tuple[ContainerFact, ...]:
    """Containers of the application that came with the failed change. What it left as it was has been serving before,
    and stays."""
    new = {spec.name for spec in view.desired.apps} - set(view.record.serving or ())
    new |= {container.name for container in view.debris}
    return tuple(container for container in view.containers if container.name in new)


def _remove_new(view: View, switching: bool) -> Iterator[Action]:
    """`switching`: the route is only now led away from them, and they drain from then on."""
    new = {container.name for container in failed_version(view)}
    for container in view.containers:
        if container.name in new:
            if not (drain.busy(view, container) or (switching and view.serves(container))):
                yield RemoveContainer(FAILED, container.name)
        elif container.labels.get(names.ROLE) in (names.MIGRATE, names.BOOTSTRAP) and container.state == "running":
            yield StopContainer(FAILED, container.name, grace=30)


# -- the database ----------------------------------------------------------------------------------------------


def _dump(view: View) -> Dump | None:
    """The dump that was made before the failed change, if it is the last one that was made."""
    found, release = view.record.last_backup, view.record.release
    if found is None or release is None or found.release != release.current:
        return None
    return Dump(found.file, found.sha256)


def _key(view: View) -> str:
    failure = view.record.failure
    return f"{failure.generation} {failure.hash}" if failure else ""


def _restore(view: View) -> ContainerSpec | None:
    dump = _dump(view)
    if dump is None:
        return None
    servers = [c for c in view.of_role(names.DATABASE) if view.served_once(c)]
    image = servers[0].image_id if servers else ""
    return restore.container(replace(view.desired.database, pinned=image), dump, _key(view))


def _begun(view: View) -> bool:
    """Whether migrate has run in this very attempt: its container is there, and that of the dump before it. Both go
    at the end of every attempt, a failed one too."""
    dump, migrate = _dump(view), view.desired.migrate
    if dump is None or migrate is None:
        return False
    shot = view.container(migrate)
    dumped = any(c.name == backup.name_of(view, dump.file) and c.exit_code == 0 for c in view.of_role(names.BACKUP))
    return dumped and shot is not None and shot.state != "created"


def _restoring(view: View) -> bool:
    shot = _restore(view)
    found = view.container(shot) if shot is not None else None
    return found is not None and found.state not in ("exited", "dead")


def _restored(view: View, shot: ContainerSpec, found: ContainerFact) -> Verdict:
    if found.state == "created":
        return act(*_stop(view), StartContainer("the restore was made but not started", shot.name))
    if found.state not in ("exited", "dead"):
        if view.now - found.created > restore.TIMEOUT:
            return act(StopContainer(f"it did not end within {restore.TIMEOUT} s", found.name))
        return wait(f"the database is set back (at most {restore.TIMEOUT} s)", after=5.0)
    if found.exit_code == 0:
        return _tidy(view) if view.verified_back or _given_up(view) else _ask(view)
    left = list(_one_shots(view, keep=names.RESTORE))
    if left:
        return act(*left)
    return failed("RestoreFailed", f"the database could not be set back (exit code {found.exit_code})", found.name)


def _stop(view: View) -> Iterator[Action]:
    """Nothing may write while the database is exchanged."""
    for container in _serving(view):
        if names.is_app(container.labels) and container.state in ("running", "paused", "restarting"):
            yield StopContainer("nothing may write while the database is set back", container.name, grace=30)


def _given_up(view: View) -> bool:
    since = view.memory.verify_since
    return bool(since) and view.now - since > PATIENCE and not view.verified_back


def _ask(view: View) -> Verdict:
    """A request as a user would make it: does the previous version live with the database as it is?"""
    ill = [c for c in _serving(view) if c.state == "restarting" or c.health in ("starting", "unhealthy")]
    exposed = next((c for c in _serving(view) if names.PORT in c.labels), None)
    if exposed is None:
        return MET
    host, mode = view.desired.route.hosts[0]
    path = exposed.labels.get(names.PATH)
    told = f"{ill[0].name} is {ill[0].health or ill[0].state}" if ill else ""
    # Without a path that is known to be good, any answer but an error of the server shows that it lives.
    return act(
        VerifyRoute(
            told or "does the previous version answer?",
            host,
            mode != "Off",
            path or "/",
            below=400 if path else 500,
            unless=told,
        )
    )


def _tidy(view: View) -> Verdict:
    left = list(_one_shots(view))
    return act(*left) if left else MET


def _one_shots(view: View, keep: str = "") -> Iterator[Action]:
    """One-shots that must not be found by the next try in place of running anew: those that failed, the dump, and a
    migration that was undone. The restore is the last one, because it says that the migration was."""
    undone = bool(view.of_role(names.RESTORE))
    for role in names.ONE_SHOTS:
        for container in view.of_role(role):
            over = container.exit_code != 0 or role in (names.BACKUP, names.RESTORE)
            if role != keep and (over or (undone and role == names.MIGRATE)):
                yield RemoveContainer(FAILED, container.name)
