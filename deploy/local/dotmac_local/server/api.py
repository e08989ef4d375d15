"""Requests to verbs: routing, permission, and the form of the answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dotmac_local import discovery, openapi, views
from dotmac_local.auth.access import Access, Attributes
from dotmac_local.auth.reviews import Reviews, owned
from dotmac_local.auth.users import User
from dotmac_local.discovery.documents import REVIEW_GROUPS, REVIEWS, subresources
from dotmac_local.errors import ApiError, bad_request, method_not_allowed, not_acceptable
from dotmac_local.resources import Registry, ResourceType
from dotmac_local.server import bodies, http
from dotmac_local.server.http import Request, Response, Streaming
from dotmac_local.server.negotiation import DISCOVERY, Form, negotiate
from dotmac_local.storage import Revision, Store
from dotmac_local.tables import render_table
from dotmac_local.tables.table import partial as partial_metadata
from dotmac_local.verbs import read, scale
from dotmac_local.verbs.delete import DeleteOptions, Deleter
from dotmac_local.verbs.patch import APPLY, Patcher
from dotmac_local.verbs.read import ListQuery, Page, Selection
from dotmac_local.verbs.request import Answer, Target, WriteOptions
from dotmac_local.verbs.write import Writer, check_kind
from dotmac_local.watch.render import renderer
from dotmac_local.watch.stream import WatchQuery, stream

NOT_FOUND = http.text(404, "404 page not found\n")
_OPTIONS = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class Route:
    """A resource path, understood. `resource` is None when nothing is served there."""

    group: str
    version: str
    namespace: str | None = None
    plural: str = ""
    name: str = ""
    subresource: str = ""
    resource: ResourceType | None = None

    @property
    def target(self) -> Target:
        assert self.resource is not None  # noqa: S101 - handlers run only where there is one
        return Target(self.resource, self.namespace or "", self.name, self.subresource)


class Api:
    """Everything below /api, /apis, /openapi and /version."""

    def __init__(self, store: Store, registry: Registry, writer: Writer, access: Access, reviews: Reviews) -> None:
        self.store = store
        self.registry = registry
        self.writer = writer
        self.patcher = Patcher(writer)
        self.deleter = Deleter(writer)
        self.access = access
        self.reviews = reviews
        self.stopping = asyncio.Event()
        self._documents: dict[Any, Any] = {}
        registry.listeners.append(self._documents.clear)

    async def handle(self, request: Request, user: User) -> Response | Streaming:
        """Raises ApiError for every refusal."""
        parts = request.parts
        if parts[:1] == ["apis"] and len(parts) >= 4 or parts[:1] == ["api"] and len(parts) >= 3:
            route = self._route(parts)
            return await self._resource(request, route, user)
        self.access.check_path(user, request.method, request.path)
        return self._document(request)

    # Documents

    def _document(self, request: Request) -> Response:
        match request.parts:
            case ["version"]:
                return http.document(200, discovery.VERSION)
            case ["healthz" | "livez" | "readyz", *_]:
                return http.text(500, "storage failed; see the log") if self.store.failed else http.text(200, "ok")
            case ["api"] | ["apis"]:
                return self._root(request, core=request.parts == ["api"])
            case ["api", version]:
                return self._cached(
                    ("list", "", version), lambda: discovery.resource_list(self.registry, "", version), request
                )
            case ["apis", group]:
                return self._cached(("group", group), lambda: discovery.api_group(self.registry, group), request)
            case ["apis", group, version]:
                return self._cached(
                    ("list", group, version), lambda: discovery.resource_list(self.registry, group, version), request
                )
            case ["openapi", "v2"]:
                return self._openapi_v2(request)
            case ["openapi", "v3"]:
                response = self._cached("openapi/v3", lambda: openapi.index(self.registry), request)
                response.content_type = "text/plain; charset=utf-8"
                return response
            case ["openapi", "v3", "api", version]:
                return self._cached(("v3", "", version), lambda: openapi.spec(self.registry, "", version), request)
            case ["openapi", "v3", "apis", group, version]:
                return self._cached(
                    ("v3", group, version), lambda: openapi.spec(self.registry, group, version), request
                )
        return NOT_FOUND

    def _cached(self, key: Any, build: Any, request: Request) -> Response:
        """Documents change only with the registry, and are asked for by every command."""
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed()
        form = negotiate(request.headers.get("accept", ""))
        found = self._documents.get((key, form))
        if found is None:
            content = build()
            if content is None:
                return NOT_FOUND
            found = self._documents[(key, form)] = http.document(200, content, Form(form.media_type))
        return Response(found.code, found.body, found.content_type)

    def _root(self, request: Request, *, core: bool) -> Response:
        form = negotiate(request.headers.get("accept", ""), DISCOVERY)
        if form.transform:
            key = ("aggregated", core, form)
            if key not in self._documents:
                content = discovery.aggregated(self.registry, core=core, version=form.version)
                self._documents[key] = http.document(200, content, form)
            found = self._documents[key]
            return Response(200, found.body, form.content_type)
        if core:
            return http.document(200, discovery.api_versions(request.headers.get("host", "127.0.0.1")), form)
        return http.document(200, discovery.api_group_list(self.registry), form)

    def _openapi_v2(self, request: Request) -> Response:
        accept = request.headers.get("accept", "*/*")
        if any(media_type in accept for media_type in openapi.V2_PROTOBUF):
            if "v2 protobuf" not in self._documents:
                self._documents["v2 protobuf"] = openapi.encode(openapi.swagger(self.registry))
            return Response(200, self._documents["v2 protobuf"], openapi.V2_PROTOBUF[1])
        if not any(kind in accept for kind in ("json", "*/*", "application/*")):
            raise not_acceptable(["application/json", openapi.V2_PROTOBUF[0]])
        if "v2" not in self._documents:
            self._documents["v2"] = http.document(200, openapi.swagger(self.registry))
        return Response(200, self._documents["v2"].body)

    # Resources

    def _route(self, parts: list[str]) -> Route:
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        namespace = None
        if (
            rest[0] == "namespaces"
            and len(rest) >= 3
            and not (group == "" and len(rest) == 3 and rest[2] in ("status", "finalize"))
        ):
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest, "", "", "")[:3]
        if len(rest) > 3:
            subresource = "/".join(rest[2:])
        resource = self.registry.find(group, version, plural)
        if resource is not None and resource.namespaced != (namespace is not None) and (name or namespace is not None):
            resource = None
        return Route(group, version, namespace, plural, name, subresource, resource)

    async def _resource(self, request: Request, route: Route, user: User) -> Response | Streaming:
        verb = _verb(request, route)
        attributes = Attributes(verb, route.group, route.plural, route.subresource, route.namespace or "", route.name)
        if route.group == "" and route.plural == "namespaces":
            attributes = Attributes(verb, "", "namespaces", route.subresource, route.name, route.name)
        if route.group in REVIEW_GROUPS:
            return await self._review(request, route, user, attributes)
        if route.resource is None:
            self.access.check(user, attributes)
            return NOT_FOUND
        self.access.check(user, attributes, route.resource)
        if route.subresource:
            offered = {name: verbs for name, _, _, _, verbs in subresources(route.resource)}
            if route.subresource not in offered:
                return NOT_FOUND
            if verb not in offered[route.subresource]:
                raise method_not_allowed()
        if verb in ("get", "list", "watch"):
            return await self._read(request, route, verb)
        return await self._write(request, route, user, verb)

    async def _review(self, request: Request, route: Route, user: User, attributes: Attributes) -> Response:
        if not any(entry[:2] == (route.group, route.plural) for entry in REVIEWS):
            return NOT_FOUND
        if request.method != "POST":
            raise method_not_allowed()
        self.access.check(user, attributes)
        body = await self._body(request, route.plural)
        form = negotiate(request.headers.get("accept", ""))
        options = WriteOptions.parse(_OPTIONS["POST"], request.query, request.headers.get("user-agent", ""))
        answered = self.reviews.answer(route.plural, body, user, route.namespace or "")
        return http.document(201, owned(answered, body, options.manager), form)

    async def _body(self, request: Request, kind: str) -> dict[str, Any]:
        raw = await request.body()
        return bodies.as_object(bodies.decode(raw, request.headers.get("content-type", ""), kind), kind)

    # Reading

    async def _read(self, request: Request, route: Route, verb: str) -> Response | Streaming:
        form = negotiate(request.headers.get("accept", ""))
        if verb == "get":
            return await self._get(request, route, form)
        query = dict(request.query)
        if route.name:
            query["fieldSelector"] = f"metadata.name={route.name}"
        selection = Selection.parse(route.target.resource, route.namespace, query)
        if verb == "watch":
            watch = WatchQuery.parse(query)
            render = renderer(selection.resource, form, query.get("includeObject", "Metadata"))
            return Streaming(stream(self.store, selection, watch, render, self.stopping), form.media_type)
        page = await read.select(self.store, selection, ListQuery.parse(query))
        await self.store.committed()
        return self._render_page(selection.resource, page, form, query)

    def _render_page(self, resource: ResourceType, page: Page, form: Form, query: dict[str, str]) -> Response:
        head = read.list_head(resource, page)
        if form.transform == "Table":
            include = query.get("includeObject") or "Metadata"
            return http.document(200, render_table(resource, page.revisions, head, include), form)
        if form.transform:
            items = [partial_metadata(views.as_object(revision, resource)) for revision in page.revisions]
            head = {name: value for name, value in head.items() if value != ""}
            content = {
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": head,
                "items": items,
            }
            return http.document(200, content, form)
        parts = read.render_list(resource, page)
        if form.media_type != "application/json":
            return http.document(200, b"".join(parts), form)
        return Response(200, b"", form.content_type, parts=parts)

    async def _get(self, request: Request, route: Route, form: Form) -> Response:
        target = route.target
        await read.wait_for(self.store, read.resource_version(request.query.get("resourceVersion", "")))
        revision = self.writer.find(target)
        await self.store.committed()
        if route.subresource == "scale":
            return http.document(200, scale.scale_of(revision, target.resource), form)
        return self._render_one(target.resource, revision, form, request)

    def _render_one(
        self, resource: ResourceType, revision: Revision, form: Form, request: Request, code: int = 200
    ) -> Response:
        if form.transform == "Table":
            include = request.query.get("includeObject") or "Metadata"
            return http.document(
                code, render_table(resource, [revision], {"resourceVersion": str(revision.rv)}, include), form
            )
        if form.transform:
            return http.document(code, partial_metadata(views.as_object(revision, resource)), form)
        return http.document(code, views.as_bytes(revision, resource) + b"\n", form)

    # Writing

    async def _write(self, request: Request, route: Route, user: User, verb: str) -> Response:
        form = negotiate(request.headers.get("accept", ""))
        raw = await request.body()
        if verb in ("delete", "deletecollection"):
            answer = await self._delete(request, route, raw)
            if isinstance(answer, Response):
                return answer
        else:
            answer = self._change(request, route, user, verb, raw)
            if isinstance(answer, Response):
                return answer
        await self.store.committed()
        return self._answer(answer, form, request)

    def _answer(self, answer: Answer, form: Form, request: Request) -> Response:
        if isinstance(answer.body, Revision):
            response = self._render_one(answer.resource, answer.body, form, request, answer.code)
        else:
            response = http.document(answer.code, answer.body, Form(form.media_type))
        if answer.warnings:
            response.headers["Warning"] = ", ".join(f"299 - {_quoted(warning)}" for warning in answer.warnings)
        return response

    def _change(self, request: Request, route: Route, user: User, verb: str, raw: bytes) -> Answer | Response:
        """Everything from here to the store is one turn of the loop."""
        target = route.target
        kind = "Scale" if route.subresource == "scale" else target.resource.kind
        media_type = request.headers.get("content-type", "").partition(";")[0].strip()
        parsed = WriteOptions.parse(_OPTIONS[request.method], request.query, request.headers.get("user-agent", ""))
        options = replace(parsed, admit=partial(self.access.check_grant, user))
        if verb in ("create", "update") and media_type in ("", "application/json") and parsed.validation != "Ignore":
            bodies.decode(raw, media_type, kind)
            options = replace(options, duplicates=tuple(bodies.duplicate_fields(raw)))
        if verb == "create" and route.subresource == "token":
            body = bodies.as_object(bodies.decode(raw, media_type, "TokenRequest"), "TokenRequest")
            answered = self.reviews.token_request(target, body)
            return http.document(201, owned(answered, body, options.manager, "token"))
        if verb == "create":
            return self._create(target, bodies.as_object(bodies.decode(raw, media_type, kind), kind), options)
        if verb == "update":
            body = bodies.as_object(bodies.decode(raw, media_type, kind), kind)
            if route.subresource == "scale":
                return scale.put_scale(self.writer, target, body, options)
            if route.subresource == "finalize":
                return self._finalize(target, body, options)
            return self.writer.update(target, body, options)
        return self._patch(target, media_type, raw, options, user)

    def _create(self, target: Target, body: dict[str, Any], options: WriteOptions) -> Answer:
        if target.name:
            check_kind(body, target)
            raise method_not_allowed()
        return self.writer.create(target, body, options)

    def _patch(self, target: Target, media_type: str, raw: bytes, options: WriteOptions, user: User) -> Answer:
        body = bodies.decode(raw, media_type, "patch") if media_type.endswith(("+json", "+yaml")) else None
        if target.subresource == "scale":
            return scale.patch_scale(self.writer, target, media_type, body, options)
        exists = self.store.get(target.resource.storage, target.namespace, target.name)
        if media_type == APPLY and exists is None and not target.subresource:
            create = Attributes(
                "create", target.resource.group, target.resource.plural, "", target.namespace, target.name
            )
            self.access.check(user, create, target.resource)
        return self.patcher.patch(target, media_type, body, options)

    def _finalize(self, target: Target, body: dict[str, Any], options: WriteOptions) -> Answer:
        live = self.writer.find(target)
        wanted = (body.get("spec") or {}).get("finalizers") or []
        return self.writer.finalize_namespace(target, live, wanted, options)

    async def _delete(self, request: Request, route: Route, raw: bytes) -> Answer | Response:
        content_type = request.headers.get("content-type", "") or "application/json"
        options = DeleteOptions.parse(bodies.decode(raw, content_type, "DeleteOptions") if raw else None, request.query)
        if route.name:
            return self.deleter.delete(route.target, options)
        resource = route.target.resource
        selection = Selection.parse(resource, route.namespace, request.query)
        page = await read.select(self.store, selection, ListQuery.parse(request.query))
        for revision in page.revisions:
            self._delete_one(Target(resource, revision.namespace, revision.name), options)
        await self.store.committed()
        return self._render_page(resource, page, Form(), request.query)

    def _delete_one(self, target: Target, options: DeleteOptions) -> None:
        try:
            self.deleter.delete(target, options)
        except ApiError as error:
            if error.reason != "NotFound":
                raise


def _verb(request: Request, route: Route) -> str:
    if request.method in ("GET", "HEAD"):
        watching = request.query.get("watch") in ("true", "1")
        if route.name and not watching:
            return "get"
        return "watch" if watching else "list"
    if request.method == "DELETE":
        return "delete" if route.name else "deletecollection"
    if request.method not in _VERBS:
        raise method_not_allowed()
    if request.method != "POST" and not route.name:
        raise method_not_allowed()
    if request.method == "POST" and route.resource and route.resource.namespaced and route.namespace is None:
        raise bad_request("an empty namespace may not be set during creation")
    return _VERBS[request.method]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
