"""One simulated host: an SSH server, a fence, an engine, and the hook that every call passes."""

import asyncio
import shlex
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import asyncssh
from tests.simhost import ingress, programs, routes
from tests.simhost.behaviour import run_command
from tests.simhost.channel import Flow, TcpFlow
from tests.simhost.engine import Engine
from tests.simhost.faults import Call, Delay, Error, Hang, HangUp, Hook, Phase, Reset, Rules, Run
from tests.simhost.http import Parser, Reply, Request, Streamed, head, render, send_chunks
from tests.simhost.objects import Json, Refused, Unchanged
from tests.simhost.wire import Link, Listener, Wire

from dotmac_operator.hosts.fence import ARGV0, REFUSED, RELEASE
from dotmac_operator.hosts.shell import DF

MAX_SESSIONS = 10
"""As in sshd_config, unless somebody changes it."""
DAEMON_DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
FENCE_FILE = "/var/lib/dotmac-fence/record"


@dataclass
class Fence:
    """What the host keeps of the operator that leads. The file of the real script, in memory."""

    number: int = 0
    domain: str = ""
    released: bool = True

    def refusal(self, number: int, domain: str) -> str:
        """Empty when the operator may go on."""
        if self.domain != domain:
            return "" if self.released else f"elsewhere {self.domain} {FENCE_FILE}"
        return f"refused {self.number}" if number < self.number else ""


@dataclass(frozen=True)
class Identity:
    """Who the host is, and who may log in."""

    name: str
    host_key: asyncssh.SSHKey
    user: str
    user_key: asyncssh.SSHKey


class SimHost:
    """All of it lives in one event loop; from another thread use `SimFleet.call`."""

    def __init__(self, identity: Identity, loop: asyncio.AbstractEventLoop) -> None:
        self.identity = identity
        self.name = identity.name
        self.engine = Engine(identity.name, loop)
        self.link = Link()
        self.disk = programs.Disk()
        self.fence = Fence()
        self.hook: Hook | None = None
        self.rules = Rules()
        self.engine_down = False
        self.forwarding = True
        """False: sshd says `AllowTcpForwarding no`."""
        self.port = 0
        self.calls: Counter[str] = Counter()
        """`METHOD /template` -> how often it was asked."""
        self.mutations = 0
        self.connections = 0
        """SSH connections made so far."""
        self.engine_starts = 0
        """How often dockerd has come back."""
        self.errors = 0
        """Answers of the engine that a hook or a rule asked for in place of its own."""
        self.programs: dict[str, tuple[int, bytes, bytes]] = {}
        """Name of a program on the host -> exit code, stdout, stderr."""
        self.channels: set[Channel] = set()
        self._number = 0
        self._loop = loop
        self._wires: set[Wire] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._fenced: dict[Channel, tuple[int, str]] = {}
        self._listener: asyncssh.SSHAcceptor | None = None

    @property
    def host_key(self) -> str:
        """The OpenSSH line to pin."""
        return self.identity.host_key.export_public_key("openssh").decode().strip()

    # ---- SSH

    async def listen(self, address: str, port: int) -> None:
        options: Mapping[str, Any] = {
            "server_factory": lambda: _Server(self),
            "server_host_keys": [self.identity.host_key],
            "tunnel": Listener(self.link, self._wires),
            "encoding": None,
            "config": None,
            "login_timeout": 20,
            "allow_scp": False,
            "compression_algs": None,
            # The ones that both sides compute fastest, of those that both trust.
            "kex_algs": ["curve25519-sha256", "curve25519-sha256@libssh.org"],
        }
        self._listener = await asyncssh.listen(address, port, **options)
        self.port = self._listener.get_port()

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.drop_connections()
        self.engine.close()

    def drop_connections(self) -> None:
        """Resets every SSH connection."""
        for wire in list(self._wires):
            wire.abort()

    @property
    def open_connections(self) -> int:
        return len(self._wires)

    # ---- things that happen to a host

    def blackhole(self, on: bool = True) -> None:
        """Everything that is sent is lost, both ways; connections are still accepted. Off: old connections are dead."""
        self.link.blackholed = on
        if not on:
            self.drop_connections()

    def stop_engine(self) -> None:
        """dockerd ends: every channel to it ends, new ones are refused; containers go on (live-restore)."""
        self.engine_down = True
        for channel in list(self.channels):
            if channel.dialled:
                channel.hang_up()

    def start_engine(self, *, live_restore: bool = True) -> None:
        self.engine_down = False
        self.engine_starts += 1
        self.engine.restart(live_restore=live_restore)

    async def restart_engine(self, seconds: float = 0.0, *, live_restore: bool = True) -> None:
        self.stop_engine()
        await asyncio.sleep(seconds)
        self.start_engine(live_restore=live_restore)

    async def reboot(self, seconds: float = 0.0) -> None:
        """A power cut; the host is back after so many seconds."""
        self.link.refused = True
        self.drop_connections()
        await asyncio.sleep(seconds)
        self.engine.reboot()
        self.link.refused = False

    # ---- calls

    def new_call(self, method: str, template: str, names: tuple[str, ...] = (), **more: Any) -> Call:
        self._number += 1
        self.calls[f"{method} {template}"] += 1
        if more.get("mutating"):
            self.mutations += 1
            more["mutation"] = self.mutations
        return Call(self.name, self._number, method, template, names, **more)

    async def meet(self, call: Call, phase: Phase, channel: Flow) -> Error | None:
        """Lets the hook have its way. Raises ConnectionError where the channel ends."""
        fault = self.hook(call, phase) if self.hook is not None else None
        fault = fault or self.rules(call, phase)
        while isinstance(fault, Run):
            fault.function()
            fault = fault.then
        if isinstance(fault, Error):
            self.errors += 1
            return fault
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds)
        elif isinstance(fault, Hang):
            await asyncio.Event().wait()
        elif isinstance(fault, Reset):
            channel.reset()
            raise ConnectionResetError("injected")
        elif isinstance(fault, HangUp):
            raise ConnectionAbortedError("injected")
        return None

    # ---- programs on the host

    async def run(self, channel: "Channel", command: str) -> None:
        argv = shlex.split(command)
        argv = argv[2:] if argv[:2] == ["env", "LC_ALL=C"] else argv
        argv = argv[3:] if argv[:3] == ["sudo", "-n", "--"] else argv
        if argv[:2] == ["sh", "-c"] and argv[3:4] == [ARGV0]:
            number, domain, *argv = argv[4:]
            if not self._pass_fence(channel, int(number), domain):
                return
            if argv == [RELEASE]:
                self.fence.released = True
                channel.exit(0)
                return
        if argv == ["docker", "system", "dial-stdio"]:
            await self._dial(channel)
        else:
            await self._program(channel, argv)

    def _pass_fence(self, channel: "Channel", number: int, domain: str) -> bool:
        refusal = self.fence.refusal(number, domain)
        if refusal:
            channel.exit(REFUSED, f"{ARGV0}: {refusal}\n")
            return False
        for other, token in list(self._fenced.items()):
            if token != (number, domain):
                other.hang_up()
        self.fence = Fence(number, domain, released=False)
        self._fenced[channel] = (number, domain)
        return True

    def forget(self, channel: "Channel") -> None:
        self._fenced.pop(channel, None)

    async def _program(self, channel: "Channel", argv: list[str]) -> None:
        name = argv[0] if argv else ""
        call = self.new_call("SSH", "df" if name == "df" else "run", (name,))
        await self.meet(call, Phase.BEFORE, channel)
        stdin = await channel.read_all()
        code, out, err = self._output(argv, stdin)
        await self.meet(call, Phase.AFTER, channel)
        await channel.write(out)
        channel.exit(code, err.decode())

    def _output(self, argv: list[str], stdin: bytes) -> tuple[int, bytes, bytes]:
        if argv and argv[0] in self.programs:
            return self.programs[argv[0]]
        if tuple(argv[: len(DF)]) == DF:
            return 0, programs.df(self.disk), b""
        ran = run_command(argv, stdin, {})
        if ran is None:
            return 127, b"", f"sh: 1: {argv[0] if argv else ''}: not found\n".encode()
        out, err = (b"".join(data for _, stream, data in ran.says if stream == wanted) for wanted in (1, 2))
        return ran.exit_code, out, err

    # ---- the engine's channel

    async def _dial(self, channel: "Channel") -> None:
        await self.meet(self.new_call("SSH", "dial"), Phase.BEFORE, channel)
        if self.engine_down:
            channel.exit(1, DAEMON_DOWN)
            return
        channel.dialled = True
        parser = Parser()
        while data := await channel.read():
            for request in parser.feed(data):
                await self._exchange(channel, request)
        channel.exit(0)

    @property
    def _common(self) -> dict[str, str]:
        return {
            "Api-Version": self.engine.api,
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"Docker/{self.engine.version} (linux)",
            "Date": formatdate(usegmt=True),
        }

    async def _exchange(self, channel: "Channel", request: Request) -> None:
        found = routes.find(request)
        if found is None:
            await channel.write(render(Reply(404, {"message": "page not found"}), self._common))
            return
        route, name = found
        names = route.names(self.engine, request, name)
        more: Json = {"mutating": route.mutating, "query": request.query}
        call = self.new_call(request.method, route.template, names, **more)
        error = await self.meet(call, Phase.BEFORE, channel)
        answer = Reply(error.status, {"message": error.message}) if error else await self._answer(route, request, name)
        failed = error is not None or (isinstance(answer, Reply) and answer.status >= 400)
        if isinstance(answer, routes.Attach) and request.json().get("Detach"):
            answer = await self._detached(answer)
        if isinstance(answer, routes.Attach):
            await self._attach(channel, request, answer, call)
        elif isinstance(answer, Streamed):
            await self._stream(channel, answer, call)
        else:
            # What failed has no effect that there could be an after of.
            error = None if failed else await self.meet(call, Phase.AFTER, channel)
            shown = Reply(error.status, {"message": error.message}) if error else answer
            body = render(shown, self._common)
            bare = head(shown.status, {**self._common, **shown.headers})
            await channel.write(bare if request.method == "HEAD" else body)

    async def _answer(self, route: routes.Route, request: Request, name: str) -> routes.Answer:
        try:
            answer = route.handler(self.engine, request, name)
            return await answer if isinstance(answer, Coroutine) else answer  # type: ignore[return-value]
        except Unchanged:
            return Reply(304)
        except Refused as refused:
            return Reply(refused.status, {"message": refused.message})
        except (KeyError, ValueError, TypeError) as error:
            return Reply(400, {"message": f"{type(error).__name__}: {error}"})

    async def _stream(self, channel: "Channel", answer: Streamed, call: Call) -> None:
        after = self.meet(call, Phase.AFTER, channel)

        async def chunks() -> Any:
            async for chunk in answer.chunks:
                yield chunk
            await after  # Its effect is there when its last word is.

        try:
            await send_chunks(channel, Streamed(chunks(), answer.content_type), self._common)
        finally:
            after.close()

    async def _detached(self, answer: routes.Attach) -> Reply:
        """Answers at once; the program runs on."""
        run = self.engine.execs[answer.exec_id]
        container = self.engine.containers[run.container]
        run.running = True
        self.engine.tell_exec(run, f"exec_start: {run.words}")

        async def unheard(stream: int, data: bytes) -> None: ...

        async def work() -> None:
            try:
                started = programs.Started(run.body.get("Cmd") or (), b"", unheard)
                run.exit_code = await programs.in_container(self.engine, container, started)
            finally:
                run.running = False
                run.exit_code = 137 if run.exit_code is None else run.exit_code
                self.engine.tell_exec(run, "exec_die", exitCode=str(run.exit_code))

        self._working.add(task := asyncio.create_task(work()))
        task.add_done_callback(self._working.discard)
        return Reply(200)

    async def _attach(self, channel: "Channel", request: Request, answer: routes.Attach, call: Call) -> None:
        run = self.engine.execs[answer.exec_id]
        container = self.engine.containers[run.container]
        upgrade = "upgrade" in request.headers
        shown = {"Connection": "Upgrade", "Upgrade": "tcp"} if upgrade else {}
        kind = {"Content-Type": "application/vnd.docker.raw-stream"}
        await channel.write(head(101 if upgrade else 200, {**shown, **kind}))
        run.running = True
        self.engine.tell_exec(run, f"exec_start: {run.words}")
        tty = bool(run.body.get("Tty"))

        async def say(stream: int, data: bytes) -> None:
            await channel.write(data if tty else routes.frame(stream, data))

        stdin = await channel.read_all() if run.body.get("AttachStdin") else b""
        started = programs.Started(run.body.get("Cmd") or (), stdin, say)
        try:
            run.exit_code = await programs.in_container(self.engine, container, started)
        finally:
            run.running = False
            run.exit_code = 137 if run.exit_code is None else run.exit_code
            self.engine.tell_exec(run, "exec_die", exitCode=str(run.exit_code))
        await self.meet(call, Phase.AFTER, channel)
        channel.exit(0)

    # ---- TCP connections that the host makes

    async def connect(self, server: "_Server", address: str, port: int) -> TcpFlow:
        call = self.new_call("SSH", "tcp", (f"{address}:{port}",))
        flow = TcpFlow()
        flow.reset = server.abort  # type: ignore[method-assign]
        await self.meet(call, Phase.BEFORE, flow)
        if not self.forwarding:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")
        found = ingress.behind(self.engine, address, port)
        if found is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "Connection refused")
        container, inner = found

        async def serve() -> None:
            with suppress(ConnectionError):
                await ingress.serve(self.engine, container, inner, flow)
                flow.hang_up()

        flow.task = self._loop.create_task(serve())
        return flow


class Channel(Flow, asyncssh.SSHServerSession[bytes]):
    """A session: one program on the host."""

    def __init__(self, host: SimHost, server: "_Server") -> None:
        super().__init__()
        self._host = host
        self._server = server
        self.dialled = False

    def connection_made(self, chan: Any) -> None:
        Flow.connection_made(self, chan)
        self._server.sessions += 1
        self._host.channels.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.sessions -= 1
        self._host.channels.discard(self)
        self._host.forget(self)
        Flow.connection_lost(self, error)

    def eof_received(self) -> bool:
        return Flow.eof_received(self)

    def exec_requested(self, command: str) -> bool:
        self.task = asyncio.get_running_loop().create_task(self._serve(command))
        return True

    async def _serve(self, command: str) -> None:
        try:
            await self._host.run(self, command)
        except ConnectionError:
            self.hang_up()

    def exit(self, code: int, stderr: str = "") -> None:
        if not self._lost:
            if stderr:
                self._chan.write_stderr(stderr.encode())
            self._chan.exit(code)


class _Server(asyncssh.SSHServer):
    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._conn: asyncssh.SSHServerConnection
        self.sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._host.connections += 1

    def abort(self) -> None:
        self._conn.abort()

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        who = self._host.identity
        return username == who.user and key.public_data == who.user_key.public_data

    def session_requested(self) -> Any:
        return Channel(self._host, self) if self.sessions < MAX_SESSIONS else False

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        return self._host.connect(self, dest_host, dest_port)
