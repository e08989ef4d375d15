"""What the program in a simulated container does: how long it runs, what it prints, when it is healthy."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dotmac_operator.core import names

STDOUT, STDERR = 1, 2


@dataclass(frozen=True)
class Said:
    """Something that a program prints, so many seconds after its start."""

    after: float
    stream: int
    data: bytes


@dataclass(frozen=True)
class Behaviour:
    """Times in seconds since the container's start."""

    runs: float | None = None
    """Until it ends by itself; None: for ever."""
    exit_code: int = 0
    says: tuple[Said, ...] = ()
    healthy_after: float | None = 0.1
    """Of a container with a health check; None: it becomes unhealthy after its retries."""
    listens_after: float = 0.0
    """Before, a connection to it is refused."""
    http_status: int = 200
    term_seconds: float | None = 0.0
    """How long it takes to end after SIGTERM; None: it ignores the signal."""
    term_code: int = 0

    @staticmethod
    def one_shot(seconds: float, code: int = 0, log: str = "") -> "Behaviour":
        said = (Said(seconds, STDOUT, log.encode()),) if log else ()
        return Behaviour(runs=seconds, exit_code=code, says=said)


@dataclass(frozen=True)
class Match:
    """Patterns as in fnmatch."""

    image: str = "*"
    role: str = "*"
    name: str = "*"

    def fits(self, image: str, role: str, name: str) -> bool:
        pairs = ((image, self.image), (role, self.role), (name, self.name))
        return all(fnmatchcase(value, pattern) for value, pattern in pairs)


ONE_SHOT_SECONDS = 0.05


def usual(labels: Mapping[str, str], argv: Sequence[str], env: Mapping[str, str]) -> Behaviour:
    """What a container does that no rule of the test speaks of."""
    role = labels.get(names.ROLE, "")
    if role in (names.MIGRATE, names.BOOTSTRAP):
        return Behaviour.one_shot(ONE_SHOT_SECONDS, log=f"{role} done\n")
    if role == names.BACKUP:
        digest = hashlib.sha256(env.get("BACKUP_FILE", "").encode()).hexdigest()
        return Behaviour.one_shot(ONE_SHOT_SECONDS, log=f"dotmac-backup sha256={digest} size=4096\n")
    ran = run_command(argv, b"", env)
    if ran is None or role:
        return Behaviour()
    said = tuple(Said(at, stream, data) for at, stream, data in ran.says)
    # A shell or sleep as process 1 has no handler, so the kernel keeps SIGTERM from it.
    return Behaviour(runs=ran.seconds, exit_code=ran.exit_code, says=said, term_seconds=None)


@dataclass
class Ran:
    """A small program, run to its end in no time: what it says and when, and how it ends."""

    seconds: float = 0.0
    exit_code: int = 0
    says: tuple[tuple[float, int, bytes], ...] = ()
    ended: bool = False

    def say(self, data: bytes, stream: int = STDOUT) -> None:
        self.says = (*self.says, (self.seconds, stream, data))


def run_command(argv: Sequence[str], stdin: bytes, env: Mapping[str, str]) -> Ran | None:
    """The few programs that tests start in a container; None for any other."""
    made = Ran()
    return made if _command(list(argv), stdin, env, made) else None


def _command(argv: list[str], stdin: bytes, env: Mapping[str, str], ran: Ran) -> bool:
    program, rest = (argv[0].rpartition("/")[2], argv[1:]) if argv else ("", [])
    if program in ("sh", "ash", "bash") and rest[:1] == ["-c"] and len(rest) > 1:
        return _script(rest[1], stdin, env, ran)
    stream = STDERR if rest[-1:] == [">&2"] else STDOUT
    words = rest[:-1] if stream == STDERR else rest
    ran.exit_code = 0
    if program == "sleep" and words:
        ran.seconds += float(words[0])
    elif program == "exit":
        ran.exit_code, ran.ended = int(words[0]) if words else 0, True
    elif program == "echo":
        ran.say((" ".join(words) + "\n").encode(), stream)
    elif program == "cat" and words[:1] == ["/proc/net/tcp"]:
        ran.say(b"  sl  local_address rem_address   st\n")  # nobody is connected
    elif program == "cat" and not words:
        ran.say(stdin, stream)
    elif program == "printenv" and words:
        ran.say(f"{env.get(words[0], '')}\n".encode())
        ran.exit_code = 0 if words[0] in env else 1
    elif program in ("true", "pg_isready", "redis-cli", ":"):
        pass
    elif program == "false":
        ran.exit_code = 1
    else:
        return False
    return True


def _script(text: str, stdin: bytes, env: Mapping[str, str], ran: Ran) -> bool:
    """Commands one after the other; anything more of a shell is not understood."""
    for line in text.replace("\n", ";").split(";"):
        try:
            argv = shlex.split(line.replace(">&2", " '>&2'"))
        except ValueError:
            return False
        if argv and not _command(argv, stdin, env, ran):
            return False
        if ran.ended:
            break
    return True
