"""Password hashing off the event loop, and what a new password must be like."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher
from zxcvbn import zxcvbn

from dotmac_api.errors import Invalid, Unavailable

MIN_LENGTH = 12
MAX_LENGTH = 128
# zxcvbn's scale: 2 is "somewhat guessable", below are the common passwords and their variants.
MIN_SCORE = 2
# Hashes that may wait; each takes about 20 ms and 19 MiB, so a flood is refused instead of queued for minutes.
MAX_WAITING = 200


def _hasher() -> PasswordHash:
    # OWASP Password Storage Cheat Sheet, Argon2id: 19 MiB, t=2, p=1.
    return PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))


class Passwords:
    """Argon2id in threads of its own, at most `concurrency` at once."""

    def __init__(self, concurrency: int) -> None:
        self._hash = _hasher()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="password")
        self._waiting = 0

    @functools.cached_property
    def _decoy(self) -> str:
        return self._hash.hash("no one has this password")

    async def hash(self, password: str) -> str:
        return await self._run(self._hash.hash, password)

    async def verify(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        """Whether the password fits, and a new hash to store when the old one has other parameters.

        Without a stored hash it spends the same time and says no, so that unknown usernames cannot be told apart.
        """
        good, renewed = await self._run(self._verify, password[: MAX_LENGTH * 4], stored)
        return good and stored is not None, renewed

    def _verify(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        try:
            return self._hash.verify_and_update(password, stored or self._decoy)
        except UnknownHashError:
            # Such as "!": an account that has no password yet. Spend the time all the same.
            self._hash.verify(password, self._decoy)
            return False, None

    async def check_new(self, password: str, *known: str, field: str = "body.new_password") -> None:
        """Raises Invalid when the password is short, common, or made of what is `known` (username, e-mail, names)."""
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise Invalid.field(field, f"must have {MIN_LENGTH} to {MAX_LENGTH} characters")
        if any(len(word) > 3 and word.lower() in password.lower() for word in known):
            raise Invalid.field(field, "must not contain the username or the e-mail address")
        score, hint = await self._run(_strength, password, known)
        if score < MIN_SCORE:
            raise Invalid.field(field, f"is too common or too easy to guess; {hint}")

    async def _run[*A, R](self, function: Callable[[*A], R], *arguments: *A) -> R:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many sign-ins at once; try again", headers={"Retry-After": "2"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _strength(password: str, known: tuple[str, ...]) -> tuple[int, str]:
    result = zxcvbn(password[:72], user_inputs=list(known))
    feedback = result["feedback"]
    hint = feedback["warning"] or " ".join(feedback["suggestions"]) or "use more and rarer words"
    return int(result["score"]), str(hint)
