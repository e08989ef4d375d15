"""`dotmac-local`: start, stop and look at the embedded control plane."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from dotmac_local import process
from dotmac_local.kubeconfig import path_in

app = typer.Typer(
    name="dotmac-local",
    help="The embedded Kubernetes API server, for laptops and CI. Never for production: there, use any Kubernetes.",
    no_args_is_help=True,
    add_completion=True,
)

DirOption = Annotated[
    Path, typer.Option("--dir", help="Where the server keeps its state, log and kubeconfig.", envvar="DOTMAC_LOCAL_DIR")
]
_DEFAULT_DIR = Path(".local/control-plane")


@app.command()
def up(
    directory: DirOption = _DEFAULT_DIR,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 is any free one. Default: that of the last run, else 6443, else any."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Keep to loopback unless you know who reaches it.")
    ] = "127.0.0.1",
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in the foreground and log to the terminal.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it answers.")] = 30.0,
    history: Annotated[
        int, typer.Option(min=10, help="How many writes back a watch can resume; from before, it gets 410 Expired.")
    ] = 10_000,
) -> None:
    """Start the server, unless it runs already, and print the KUBECONFIG to use."""
    directory = directory.resolve()
    options = process.Options(directory, host, port, timeout, history)
    try:
        if foreground:
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            process.run(options)
            return
        started = process.start(options)
    except process.CannotStart as error:
        typer.secho(f"dotmac-local: {error}", err=True, fg="red")
        raise typer.Exit(1) from None
    typer.echo(f"{'Started' if started.fresh else 'Already running'}: {started.url} (pid {started.pid})", err=True)
    typer.echo("For laptops and CI only, never for production.", err=True)
    typer.echo(f"export KUBECONFIG={path_in(directory)}")


@app.command()
def down(
    directory: DirOption = _DEFAULT_DIR,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete its state: every object, the CA and the token.")
    ] = False,
) -> None:
    """Stop the server; its objects stay on disk unless --purge is given."""
    directory = directory.resolve()
    try:
        stopped = process.stop(directory)
        if purge:
            process.purge(directory)
    except process.CannotStop as error:
        typer.secho(f"dotmac-local: {error}", err=True, fg="red")
        raise typer.Exit(1) from None
    typer.echo("Stopped." if stopped else "It was not running.", err=True)
    if purge:
        typer.echo(f"Deleted {directory}.", err=True)


@app.command()
def status(directory: DirOption = _DEFAULT_DIR) -> None:
    """Say whether it runs. Exit code: 0 it answers, 3 it does not run, 4 it runs but does not answer."""
    found = process.look(directory.resolve())
    typer.echo(found.text)
    raise typer.Exit(found.code)


@app.command()
def kubeconfig(directory: DirOption = _DEFAULT_DIR) -> None:
    """Print the kubeconfig (it holds the token: keep it private)."""
    path = path_in(directory.resolve())
    try:
        typer.echo(path.read_text(), nl=False)
    except FileNotFoundError:
        typer.secho(f"dotmac-local: no {path}: run `dotmac-local up` first", err=True, fg="red")
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
