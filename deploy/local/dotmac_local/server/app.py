"""The ASGI application: authentication, overload, errors, and the life of the server."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from dotmac_local.auth.access import Access
from dotmac_local.auth.rbac import Rbac
from dotmac_local.auth.reviews import Reviews
from dotmac_local.auth.tokens import Credentials, Tokens
from dotmac_local.auth.users import ANONYMOUS, AUTHENTICATED, User, service_account
from dotmac_local.controllers import bootstrap
from dotmac_local.controllers.crds import CrdController
from dotmac_local.controllers.expiry import expire_events
from dotmac_local.controllers.gc import GarbageCollector
from dotmac_local.controllers.namespaces import NamespaceController
from dotmac_local.errors import ApiError, bad_request, overloaded, unauthorized
from dotmac_local.resources import Registry
from dotmac_local.server import http
from dotmac_local.server.api import Api
from dotmac_local.server.http import Receive, Request, Response, Scope, Send, Streaming
from dotmac_local.storage import HistoryLimits, StorageFailed, Store
from dotmac_local.verbs.write import Writer

log = logging.getLogger("dotmac_local")

# Requests at once, watches apart (Kubernetes: 400 + 200 for all kinds of requests).
MAX_IN_FLIGHT = 400


class Application:
    """The whole control plane behind one ASGI callable; `start` and `close` run on its event loop."""

    def __init__(self, directory: Path, credentials: Credentials, limits: HistoryLimits | None = None) -> None:
        self.store = Store(directory / "state.db", limits)
        self.registry = Registry()
        self.writer = Writer(self.store, self.registry)
        self.tokens = Tokens(credentials, self.store)
        self.access = Access(Rbac(self.store))
        self.crds = CrdController(self.store, self.registry, self.writer)
        reviews = Reviews(self.store, self.access.rbac, self.tokens)
        self.api = Api(self.store, self.registry, self.writer, self.access, reviews)
        self._in_flight = 0
        self._controllers: list[NamespaceController | GarbageCollector] = []
        self._expiry: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve what is stored, create what every cluster has, set the controllers to work."""
        self.store.start()
        self.crds.load()
        bootstrap.ensure(self.writer, self.registry)
        await self.store.committed()
        self.store.observers.append(self.crds.instance_gone)
        for controller in (
            NamespaceController(self.store, self.registry, self.writer),
            GarbageCollector(self.store, self.registry, self.writer),
        ):
            self.store.observers.append(controller.observe)
            controller.load()
            controller.start()
            self._controllers.append(controller)
        self._expiry = asyncio.create_task(expire_events(self.store, self.registry, self.writer), name="event expiry")

    async def close(self) -> None:
        """End the watches, commit, let go of the files."""
        self.end_watches()
        for controller in self._controllers:
            controller.stop()
        if self._expiry:
            self._expiry.cancel()
        await self.store.close()

    def end_watches(self) -> None:
        self.api.stopping.set()
        for storage in self.store.storages():
            self.store.collection(storage).ring()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request.parse(scope, receive)
        if self._in_flight >= MAX_IN_FLIGHT:
            await http.send_response(send, _refusal(overloaded()))
            return
        self._in_flight += 1
        try:
            answer = await self._answer(request)
        except ConnectionResetError:
            return
        finally:
            self._in_flight -= 1
        if isinstance(answer, Streaming):
            await _stream(send, receive, answer)
        else:
            await http.send_response(send, answer)

    async def _answer(self, request: Request) -> Response | Streaming:
        try:
            try:
                return await self.api.handle(request, self._authenticate(request))
            except ApiError as error:
                # What is refused may rest on a write that is not on disk yet.
                await self.store.committed()
                return _refusal(error)
        except RecursionError:
            return _refusal(bad_request("the object is nested too deeply"))
        except StorageFailed as error:
            return _refusal(ApiError(500, "InternalError", f"Internal error occurred: {error}"))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            message = "Internal error occurred: the embedded API server has a bug; its log has the details"
            return _refusal(ApiError(500, "InternalError", message))

    def _authenticate(self, request: Request) -> User:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            user = ANONYMOUS
        elif scheme.lower() == "bearer" and (found := self.tokens.user(token.strip())):
            user = found
        else:
            raise unauthorized()
        return self._impersonate(request, user)

    def _impersonate(self, request: Request, user: User) -> User:
        """Impersonate-User and -Group: `kubectl --as`."""
        name = request.headers.get("impersonate-user", "")
        groups = request.multi.get("impersonate-group", [])
        if not name:
            if groups:
                raise ApiError(400, "BadRequest", "requested groups without impersonating a user")
            return user
        if name.startswith("system:serviceaccount:") and name.count(":") == 3:
            _, _, namespace, account = name.split(":")
            self.access.check_impersonation(user, "serviceaccounts", account, "", namespace)
            acting = service_account(namespace, account)
        else:
            self.access.check_impersonation(user, "users", name)
            acting = User(name, () if name == ANONYMOUS.name else (AUTHENTICATED,))
        for group in groups:
            self.access.check_impersonation(user, "groups", group)
        return acting.with_groups(*(group for group in groups if group not in acting.groups))


def _refusal(error: ApiError) -> Response:
    response = http.document(error.code, error.status())
    response.content_type = error.content_type
    response.headers |= error.headers
    return response


async def _stream(send: Send, receive: Receive, answer: Streaming) -> None:
    """Send a watch until it ends or the client hangs up, whichever is first."""
    sending = asyncio.create_task(http.send_stream(send, answer))
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
