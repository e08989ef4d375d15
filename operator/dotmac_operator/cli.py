"""`dotmac-operator`: runs the operator, or tells what it lacks."""

import asyncio
from importlib.metadata import version as package_version
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from dotmac_operator.settings import Settings

app = typer.Typer(help="Drives Docker hosts towards what Server and Instance resources say.", no_args_is_help=True)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"dotmac-operator {package_version('dotmac-operator')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


NamespaceOption = Annotated[
    list[str] | None,
    typer.Option("--namespace", "-n", help="Namespace to watch; may be repeated. Default: the current one."),
]
AllOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Watch every namespace.")]


@app.command()
def run(
    namespace: NamespaceOption = None,
    all_namespaces: AllOption = False,
    log_format: Annotated[Literal["plain", "json"] | None, typer.Option(help="Form of the log lines.")] = None,
    log_level: Annotated[Literal["debug", "info", "warning", "error"] | None, typer.Option(help="Least level.")] = None,
) -> None:
    """Run the operator, in a cluster or with a kubeconfig, until SIGTERM or SIGINT."""
    from dotmac_operator import logs, main
    from dotmac_operator.kube import NoCluster
    from dotmac_operator.leader import LeadershipLost
    from dotmac_operator.leases import LeaseForbidden
    from dotmac_operator.serving.listener import AddressTaken

    settings = _settings(namespace, all_namespaces, log_format=log_format, log_level=log_level)
    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(main.run(settings))
    except (NoCluster, LeaseForbidden, AddressTaken) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except LeadershipLost as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def check(namespace: NamespaceOption = None, all_namespaces: AllOption = False) -> None:
    """Check configuration, CRDs and permissions, each by name. Exit code 1 when one is missing."""
    from dotmac_operator import check as checks
    from dotmac_operator.kube import NoCluster

    settings = _settings(namespace, all_namespaces)
    failed = 0
    try:
        for result in checks.run(settings):
            typer.echo(f"{'ok  ' if result.ok else 'FAIL'} {result.name}" + (f": {result.hint}" if result.hint else ""))
            failed += not result.ok
    except NoCluster as error:
        typer.echo(f"FAIL kubernetes: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo("all is well" if not failed else f"{failed} checks failed")
    raise typer.Exit(1 if failed else 0)


def _settings(namespaces: list[str] | None, all_namespaces: bool, **options: str | None) -> Settings:
    """Environment first, the command line over it; one clear line for a wrong value."""
    from dotmac_operator.kube import current_namespace

    given = {name: value for name, value in options.items() if value is not None}
    try:
        made = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        for problem in error.errors():
            name = "".join(f"DOTMAC_OPERATOR_{part}: ".upper() for part in problem["loc"])
            typer.echo(f"error: {name}{problem['msg']}", err=True)
        raise typer.Exit(2) from None
    if namespaces and all_namespaces:
        raise typer.BadParameter("--namespace and --all-namespaces exclude each other")
    if namespaces:
        return made.model_copy(update={"namespaces": namespaces, "all_namespaces": False})
    if all_namespaces:
        return made.model_copy(update={"namespaces": [], "all_namespaces": True})
    if made.namespaces or made.all_namespaces:
        return made
    return made.model_copy(update={"namespaces": [current_namespace()]})
