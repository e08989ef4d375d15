"""`deploy/demo up|down|status`: the whole product on this machine, from real parts."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from dotmac_local.demo import cluster as control
from dotmac_local.demo import facade, host
from dotmac_local.demo.cluster import INSTANCES, Cluster
from dotmac_local.demo.dockerd import answers
from dotmac_local.demo.images import ROOT, ensure_built
from dotmac_local.demo.processes import CommandFailed, Daemon
from dotmac_local.demo.progress import Progress, credentials, is_ready, log_in
from dotmac_local.demo.report import PartFailed, console, part, say, show_failure
from dotmac_local.demo.state import DIRECTORY, ENV_FILE, LOGS, USER, Settings
from dotmac_local.demo.subnets import free_pool, used_networks

READY_WITHIN = 480.0
"""Seconds until both Instances must be Ready: the promise for a cold start."""
FREE_DISK = 3_000_000_000
OPERATOR = Daemon("the operator", DIRECTORY / "operator.started", LOGS / "operator.log")


def check_machine() -> None:
    """Refuse early what would fail late."""
    if os.geteuid() != 0:
        raise PartFailed(
            "this machine", "the demo makes a user and starts sshd and dockerd", "run it as root, or with sudo"
        )
    free = shutil.disk_usage(ROOT).free
    if free < FREE_DISK:
        raise PartFailed(
            "this machine",
            f"{free // 1_000_000} MB free under {ROOT}, and the demo needs {FREE_DISK // 1_000_000} MB",
            "free some room, or use a checkout on another disk",
        )


def up(kubeconfig: Path | None) -> None:
    """Bring everything up, whatever part of it is there already."""
    check_machine()
    before = Settings.load()
    settings = before or Settings()
    wanted = str(kubeconfig.resolve()) if kubeconfig else ""
    if before is not None and before.kubeconfig != wanted:
        raise PartFailed(
            "control plane",
            f"this demo runs on {before.kubeconfig or 'the embedded control plane'}",
            "`deploy/demo down` first, to change it"
            if wanted
            else f"add --kubeconfig {before.kubeconfig}, or `deploy/demo down`",
        )
    settings = replace(settings, kubeconfig=wanted)
    if wanted:
        reach_cluster(settings)
    with part("images", "mend the cause and run deploy/demo again; what is built already is kept"):
        ensure_built(say, host.ARCHIVES_OF_DEMO)
    settings = start_host(settings)
    settings, cluster = start_control_plane(settings)
    settings = start_operator(settings)
    settings = start_facade(settings)
    with part("example resources", "see deploy/examples, and the API server's log under .local/control-plane"):
        settings = control.apply_examples(cluster, settings, host.sshd(settings))
        settings.save()
    say("applied deploy/examples: Server demo, Release tryton, InstanceClass starter, Instances acme and globex")
    write_environment(settings)
    with part("the Instances", f"the operator's log is {OPERATOR.log}"):
        Progress(cluster, OPERATOR, control.request_reconcile(cluster)).wait(READY_WITHIN)
        for name in INSTANCES:
            url = log_in(cluster, name, proxy_url(settings))
            say(f"logged in to {name} through the proxy: {url}", style="bold green")
    use_facade(settings)
    what_next(cluster, settings)


def start_host(settings: Settings) -> Settings:
    """The Docker host: Engine, user, sshd, images."""
    with part("Docker engine", f"see {LOGS / 'dockerd.log'}; a Docker of this machine that runs is used instead"):
        fresh = not settings.engine_socket
        if fresh:
            settings = replace(settings, network_pool=free_pool(used_networks()))
        settings = host.choose_engine(settings)
        host.start_engine(settings)
        say(f"Docker engine: {'our own' if settings.own_engine else 'of this machine'}, {settings.engine_socket}")
        if fresh:
            settings = settings.with_free_ports("ssh_port", "http_port", "https_port")
        settings.save()
    with part("SSH", f"see {LOGS / 'sshd.log'}"):
        host.ensure_user(settings)
        if host.sshd(settings).daemon.pid() is None:
            settings = replace(settings, ssh_port=settings.with_free_ports("ssh_port").ssh_port)
            settings.save()
        host.sshd(settings).start()
        say(f"SSH: {USER}@{host.ADDRESS}:{settings.ssh_port}, own key pair, pinned host key")
    with part("images", "`deploy/images/build` builds them alone; `deploy/demo down` and up starts afresh"):
        settings = host.load_images(settings)
        settings.save()
    return settings


def reach_cluster(settings: Settings) -> Cluster:
    """The user's cluster, which must answer."""
    with part("cluster", f"check {settings.kubeconfig} with `kubectl --kubeconfig {settings.kubeconfig} version`"):
        cluster = Cluster(settings.kubeconfig_path)
        say(f"cluster of {settings.kubeconfig}: Kubernetes {cluster.version()}")
    return cluster


def start_control_plane(settings: Settings) -> tuple[Settings, Cluster]:
    """The API server, with our CRDs."""
    if settings.kubeconfig:
        cluster = reach_cluster(settings)
    else:
        with part("control plane", "see .local/control-plane/server.log; `dotmac-local status` tells more"):
            control.start_embedded()
            cluster = Cluster(settings.kubeconfig_path)
            say(f"embedded control plane (for laptops and CI, never for production): {cluster.version()}")
    with part("CRDs", "the user of the kubeconfig must be allowed to create customresourcedefinitions"):
        made = cluster.apply_crds()
        settings = replace(settings, made_crds=sorted({*settings.made_crds, *made}))
        settings.save()
        say("CRDs of platform.dotmac.io are installed")
    return settings, cluster


def start_operator(settings: Settings) -> Settings:
    """The operator as a background process."""
    program = Path(sys.executable).with_name("dotmac-operator")
    with part("the operator", f"see {OPERATOR.log}; `dotmac-operator check` names what is missing"):
        running = OPERATOR.pid() is not None
        if not running:
            settings = settings.with_free_ports("diagnostics_port", "metrics_port")
            settings.save()
        environment = {**os.environ, "KUBECONFIG": str(settings.kubeconfig_path)}
        environment |= facade.operator_environment(settings)
        OPERATOR.start([str(program), "run", "--namespace", control.NAMESPACE], lambda: True, env=environment)
        say(f"the operator {'runs already' if running else 'is started'}; its log: {OPERATOR.log}")
    return settings


def start_facade(settings: Settings) -> Settings:
    """PostgreSQL, Redis, and the REST facade over them."""
    with part("the REST facade", f"see {facade.FACADE.log}, {facade.POSTGRES.log} and {facade.REDIS.log}"):
        if facade.FACADE.pid() is None:
            free = [name for name, daemon in facade.PORTS.items() if daemon.pid() is None]
            settings = settings.with_free_ports(*free)
            settings.save()
        facade.start(settings)
        say(f"REST facade: {facade.url(settings)}, with PostgreSQL and Redis of its own; its log: {facade.FACADE.log}")
    return settings


def use_facade(settings: Settings) -> None:
    """Sign in to the facade and list the instances, as a client does."""
    with part("the REST facade", f"see {facade.FACADE.log}"):
        if missing := facade.unready(settings, within=15):
            raise CommandFailed(f"{facade.url(settings)}/health/ready misses {', '.join(missing)}")
        try:
            found = facade.sign_in(settings)
        except CommandFailed as failed:
            # Whoever uses the demo may have changed the password or asked for a second factor.
            say(f"the REST facade is ready, but {failed}", style="yellow")
            return
        say(f"signed in to the REST facade as {facade.ADMIN}: instances {', '.join(found)}", style="bold green")


def proxy_url(settings: Settings) -> str:
    """Where the proxy listens."""
    return f"http://{host.ADDRESS}:{settings.http_port}"


def write_environment(settings: Settings) -> None:
    """.local/env, for `. .local/env`; only its owner can read it."""
    lines = {
        "KUBECONFIG": str(settings.kubeconfig_path),
        "DOCKER_HOST": f"unix://{settings.engine_socket}",
        "DOTMAC_DEMO_URL": proxy_url(settings),
        "DOTMAC_API_URL": facade.url(settings),
        "DOTMAC_ADMIN_USER": facade.ADMIN,
        "DOTMAC_ADMIN_PASSWORD": facade.Secrets.load().admin_password,
    }
    quoted = "".join(
        f"export {name}='{value.replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}'\n" for name, value in lines.items()
    )
    facade.write_private(ENV_FILE, quoted + f'PATH="{Path(sys.executable).parent}:$PATH"\n')


def what_next(cluster: Cluster, settings: Settings) -> None:
    """What to try, with the commands."""
    kubectl = "kubectl" if shutil.which("kubectl") else "kubectl (not installed here; any from 1.20 on works)"
    console.print(
        "\n[bold]Both tenants are served.[/bold] It all keeps running; `deploy/demo down` removes every part.\n"
    )
    for name in INSTANCES:
        body = cluster.get("Instance", name) or {}
        user, _ = credentials(cluster, body)
        console.print(f"  {(body.get('status') or {}).get('url')}   user {user}, password in Secret {name}-credentials")
    console.print(f"""
Try next (in bash; {kubectl}):
  . .local/env
  kubectl get instances,servers                    what runs, and where
  kubectl get secret acme-credentials -o jsonpath='{{.data.admin-password}}' | base64 -d
  kubectl describe instance acme                   steps, conditions, events
  docker ps                                        the containers behind it
  docker rm -f $(docker ps -q -f name=dotmac-acme-web)        break it: it is repaired within a second or two
  kubectl get events --field-selector involvedObject.name=acme
  kubectl patch instance acme --type merge -p '{{"spec":{{"env":[{{"name":"WEB_THREADS","value":"4"}}]}}}}'
  kubectl apply -f deploy/examples/next/ && kubectl patch instance acme --type merge \\
    -p '{{"spec":{{"releaseRef":{{"name":"tryton-6.0.1"}}}}}}'     an upgrade, with a backup before it
  kubectl get instance acme -w                     what it does meanwhile
  kubectl explain instance.spec                    every field
  deploy/demo status                               what runs; `tail -f .local/log/operator.log` what it does

The same by REST (sign in, list, deploy, its steps and log, follow it; an access token lasts 15 minutes):
{facade.commands()}
""", markup=False)  # fmt: skip


def down() -> None:
    """Remove every part; what cannot be removed is named."""
    settings = Settings.load()
    if settings is None:
        say("there is no demo here")
        ENV_FILE.unlink(missing_ok=True)
        return
    check_machine()
    left: list[str] = []
    cluster = reachable_cluster(settings)
    if cluster is not None and (settings.kubeconfig or not settings.own_engine):
        remove_resources(cluster, settings)
    OPERATOR.stop()
    say("the operator is stopped")
    with part("the REST facade", f"see {LOGS}; run `deploy/demo down` again"):
        facade.stop()
        say("the REST facade is removed with its PostgreSQL and Redis")
    if settings.kubeconfig and cluster is not None:
        with part("cluster", "delete the resources of platform.dotmac.io there by hand"):
            control.drop_finalizers(cluster)
            control.remove_crds(cluster, settings.made_crds)
    elif settings.kubeconfig and settings.uids:
        left.append(f"resources of platform.dotmac.io in the cluster of {settings.kubeconfig}, which does not answer")
    elif not settings.kubeconfig:
        with part("control plane", "`dotmac-local down --purge` removes it alone"):
            control.stop_embedded()
            say("the embedded control plane is removed")
    with part("Docker host", f"see {LOGS}; run `deploy/demo down` again"):
        left += host.remove(settings)
        say("sshd, its user, and the demo's containers, networks, volumes and images are removed")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    ENV_FILE.unlink(missing_ok=True)
    if left:
        raise PartFailed("removal", "still there: " + "; ".join(left), "remove them by hand")
    say("nothing of the demo is left but .local/images (built images) and .local/log", style="bold green")


def reachable_cluster(settings: Settings) -> Cluster | None:
    """The API server, or None: `down` must end everything else whatever has become of it."""
    try:
        cluster = Cluster(settings.kubeconfig_path)
        cluster.version()
    except (ApiException, HTTPError, CommandFailed, OSError) as unreachable:
        say(f"the API server does not answer ({type(unreachable).__name__}); removing the Docker objects directly")
        return None
    return cluster


def remove_resources(cluster: Cluster, settings: Settings) -> None:
    """Let the operator take its Instances apart, as it would for a user; force is for what it leaves."""
    if OPERATOR.pid() is None:
        start_operator(settings)
    say("deleting the Instances and their data")
    with part("removal", "run `deploy/demo down` again"):
        slow = control.remove_examples(cluster, timeout=90)
        if slow:
            say(f"the operator did not finish with {', '.join(slow)}; removing the Docker objects directly")
            control.drop_finalizers(cluster)


def status() -> int:
    """Say what runs; 0 when all of it does, 3 when there is no demo, 4 when a part is missing."""
    settings = Settings.load()
    if settings is None:
        console.print("There is no demo here; `deploy/demo` brings one up.")
        return 3
    sound = True

    def line(name: str, good: bool, text: str) -> None:
        nonlocal sound
        sound &= good
        console.print(f"{'ok  ' if good else 'DOWN'}  {name:<15} {text}", style="" if good else "red", markup=False)

    line("docker engine", answers(Path(settings.engine_socket)), settings.engine_socket)
    running = host.sshd(settings)
    line("ssh", running.greets(), f"{USER}@{host.ADDRESS}:{settings.ssh_port}")
    for name, daemon in (("operator", OPERATOR), ("postgresql", facade.POSTGRES), ("redis", facade.REDIS)):
        pid = daemon.pid()
        line(name, pid is not None, f"pid {pid}, log {daemon.log}" if pid else f"log {daemon.log}")
    missing = facade.unready(settings)
    line("rest facade", not missing, facade.url(settings) + (f" misses {', '.join(missing)}" if missing else ""))
    try:
        cluster = Cluster(settings.kubeconfig_path)
        line("control plane", True, f"{cluster.version()}, KUBECONFIG={settings.kubeconfig_path}")
        for name in INSTANCES:
            body = cluster.get("Instance", name)
            found = (body or {}).get("status") or {}
            line(f"{name}", is_ready(body), f"{found.get('phase') or 'not there'} {found.get('url') or ''}")
    except (ApiException, HTTPError, CommandFailed, OSError) as failed:
        line("control plane", False, f"{settings.kubeconfig_path}: {failed}")
    if not sound:
        console.print("`deploy/demo` brings the missing parts up again.")
    return 0 if sound else 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="deploy/demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("up", "down", "status"), default="up")
    parser.add_argument("--kubeconfig", type=Path, metavar="F", help="a cluster to use instead of the embedded one")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "status":
            return status()
        if chosen.command == "down":
            down()
        else:
            up(chosen.kubeconfig)
    except PartFailed as failed:
        show_failure(failed)
        return 1
    except KeyboardInterrupt:
        console.print(
            "\nInterrupted. What was started keeps running; `deploy/demo` goes on, `deploy/demo down` removes it."
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
