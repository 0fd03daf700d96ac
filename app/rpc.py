"""`edgereplica.admin.v1.AdminService` over Connect: a thin skin on `app.admin`.

The interceptor is the only place where an exception becomes a Connect error; without it, whatever
a handler raises would reach the client with its text. Handlers gate themselves with
`require_session`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.interceptor import UnaryInterceptor
from connectrpc.request import RequestContext

from ..events.errors import (
    EdgeReplicaError,
    IdentityProviderFailed,
    InvalidArgument,
    Unauthenticated,
)
from ..events.limits import RPC_MESSAGE_BYTES_MAX
from ..proto.gen.edgereplica.admin.v1 import admin_pb as pb
from ..proto.gen.edgereplica.admin.v1.admin_connect import AdminService as AdminServiceProtocol
from ..proto.gen.edgereplica.admin.v1.admin_connect import AdminServiceASGIApplication
from .admin import AdminService, DatabaseInfo
from .connect_codecs import CODECS
from .logs import hold_secret
from .sessions import Authenticated, called_from
from .tokens import Direction, Identity, VerifiedClaims

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
Context = RequestContext[Any, Any]

_DIRECTIONS: Final[dict[int, Direction]] = {pb.Direction.PUSH: "push", pb.Direction.PULL: "pull"}


def bearer_token(authorization: str | None) -> str:
    """The token of an `Authorization: Bearer …` header (RFC 6750 §2.1); `Unauthenticated`."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("this call needs a session: `Authorization: Bearer <token>`")
    return token.strip()


class ErrorsToConnect:
    """Turns every exception into a `ConnectError`; one that is not ours says nothing of itself."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("edgereplica.rpc")

    async def intercept_unary(
        self,
        call_next: Callable[[_Request, Context], Awaitable[_Response]],
        request: _Request,
        ctx: Context,
        /,
    ) -> _Response:
        address = (ctx.client_address or "").rpartition(":")[0].strip("[]")
        try:
            with called_from(address, ctx.request_headers.get("user-agent") or ""):
                return await call_next(request, ctx)
        except ConnectError:
            raise
        except EdgeReplicaError as error:
            if error.rpc_code in {"internal", "unavailable"}:
                self._log.exception("call failed", method=ctx.method.name)
            if seconds := error.details.get("retry_after_seconds"):
                ctx.response_headers["retry-after"] = str(seconds)
            raise to_connect(error) from None
        except UnicodeEncodeError:
            raise to_connect(InvalidArgument("a text is not valid Unicode")) from None
        except Exception:  # noqa: BLE001 - nothing of it may reach the client
            self._log.exception("call failed", method=ctx.method.name)
            raise ConnectError(Code.INTERNAL, "internal error") from None


def to_connect(error: EdgeReplicaError) -> ConnectError:
    """What a client is told: the words of the error, except those of the server's own trouble."""
    code = Code(error.rpc_code)
    of_ours = not isinstance(error, IdentityProviderFailed)
    if of_ours and code in {Code.INTERNAL, Code.UNAVAILABLE}:
        return ConnectError(code, "the server cannot do this now")
    return ConnectError(code, error.message)


class AdminRpc(AdminServiceProtocol):
    """The generated protocol's `AdminService`, on the use cases."""

    def __init__(self, admin: AdminService) -> None:
        self._admin = admin

    async def require_session(self, ctx: Context) -> VerifiedClaims:
        return await self._admin.session(bearer_token(ctx.request_headers.get("authorization")))

    async def whoami(self, request: pb.WhoamiRequest, ctx: Context, /) -> pb.WhoamiResponse:
        session = await self.require_session(ctx)
        identity = Identity(session.user_id, session.org_id, session.email, session.role)
        return pb.WhoamiResponse(whoami=_whoami(identity))

    async def signup(self, request: pb.SignupRequest, ctx: Context, /) -> pb.AuthResponse:
        hold_secret(request.password)
        return auth_response(await self._admin.signup(request.email, request.password))

    async def login(self, request: pb.LoginRequest, ctx: Context, /) -> pb.AuthResponse:
        hold_secret(request.password)
        return auth_response(await self._admin.login(request.email, request.password))

    async def start_o_auth(
        self, request: pb.StartOAuthRequest, ctx: Context, /
    ) -> pb.StartOAuthResponse:
        redirect_url, state = await self._admin.start_oauth(request.provider)
        hold_secret(state)
        return pb.StartOAuthResponse(redirect_url=redirect_url, state=state)

    async def complete_o_auth(
        self, request: pb.CompleteOAuthRequest, ctx: Context, /
    ) -> pb.AuthResponse:
        hold_secret(request.state, request.code)
        return auth_response(await self._admin.complete_oauth(request.state, request.code))

    async def create_database(
        self, request: pb.CreateDatabaseRequest, ctx: Context, /
    ) -> pb.Database:
        session = await self.require_session(ctx)
        return _database(await self._admin.create_database(session, request.name))

    async def list_databases(
        self, request: pb.ListDatabasesRequest, ctx: Context, /
    ) -> pb.ListDatabasesResponse:
        session = await self.require_session(ctx)
        found = await self._admin.list_databases(session)
        return pb.ListDatabasesResponse(databases=[_database(database) for database in found])

    async def delete_database(
        self, request: pb.DeleteDatabaseRequest, ctx: Context, /
    ) -> pb.DeleteDatabaseResponse:
        session = await self.require_session(ctx)
        await self._admin.delete_database(session, request.database_id)
        return pb.DeleteDatabaseResponse()

    async def issue_sync_token(
        self, request: pb.IssueSyncTokenRequest, ctx: Context, /
    ) -> pb.IssueSyncTokenResponse:
        session = await self.require_session(ctx)
        token, exp = await self._admin.issue_sync_token(
            session, request.database_id, _DIRECTIONS.get(request.direction), request.ttl_seconds
        )
        return pb.IssueSyncTokenResponse(token=token, exp_unix=exp)


def rpc_app(admin: AdminService, *guards: UnaryInterceptor) -> AdminServiceASGIApplication:
    """The ASGI application of the service; it answers under its own standard path only.

    `guards` see each call and may refuse it, the first one first.
    """
    return AdminServiceASGIApplication(
        AdminRpc(admin),
        interceptors=[ErrorsToConnect(), *guards],
        read_max_bytes=RPC_MESSAGE_BYTES_MAX,
        codecs=CODECS,
    )


def _whoami(identity: Identity) -> pb.WhoamiInfo:
    return pb.WhoamiInfo(
        user_id=identity.user_id,
        email=identity.email,
        org_id=identity.org_id,
        role=identity.role,
    )


def auth_response(opened: Authenticated) -> pb.AuthResponse:
    hold_secret(opened.session_token)
    return pb.AuthResponse(session_token=opened.session_token, whoami=_whoami(opened.identity))


def _database(database: DatabaseInfo) -> pb.Database:
    return pb.Database(
        id=database.database_id,
        org_id=database.org_id,
        name=database.name,
        created_at_unix=int(database.created_at),
    )
