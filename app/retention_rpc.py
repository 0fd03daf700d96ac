"""`edgereplica.admin.v1.RetentionService` over Connect: a thin skin on `app.retention`."""

from connectrpc.interceptor import UnaryInterceptor

from ..events.limits import RPC_MESSAGE_BYTES_MAX
from ..proto.gen.edgereplica.admin.v1 import retention_pb as pb
from ..proto.gen.edgereplica.admin.v1.retention_connect import (
    RetentionService as RetentionServiceProtocol,
)
from ..proto.gen.edgereplica.admin.v1.retention_connect import RetentionServiceASGIApplication
from .authorization import authorize
from .connect_codecs import CODECS
from .history import DatabaseHistory, History
from .retention import Retention, retention_of, set_retention
from .rpc import Context, ErrorsToConnect, bearer_token
from .sessions import Sessions


class RetentionRpc(RetentionServiceProtocol):
    """The generated protocol's `RetentionService`, on the use cases."""

    def __init__(self, histories: DatabaseHistory, sessions: Sessions) -> None:
        self._histories = histories
        self._sessions = sessions

    async def set_retention(self, request: pb.SetRetentionRequest, ctx: Context, /) -> pb.Retention:
        session = await self._sessions.verify(
            bearer_token(ctx.request_headers.get("authorization"))
        )
        authorize(session, "SetRetention", request.database_id)
        history = await self._histories.open(request.database_id, session.org_id)
        rule = Retention(request.keep_last or None, request.keep_days or None)
        await set_retention(self._histories, history, rule, session.user_id)
        return _said(rule, history)

    async def get_retention(self, request: pb.GetRetentionRequest, ctx: Context, /) -> pb.Retention:
        session = await self._sessions.verify(
            bearer_token(ctx.request_headers.get("authorization"))
        )
        authorize(session, "GetRetention", request.database_id)
        history = await self._histories.open(request.database_id, session.org_id)
        return _said(retention_of(history), history)


def retention_rpc_app(
    histories: DatabaseHistory, sessions: Sessions, *guards: UnaryInterceptor
) -> RetentionServiceASGIApplication:
    """The ASGI application of the service; it answers under its own standard path only."""
    return RetentionServiceASGIApplication(
        RetentionRpc(histories, sessions),
        interceptors=[ErrorsToConnect(), *guards],
        read_max_bytes=RPC_MESSAGE_BYTES_MAX,
        codecs=CODECS,
    )


def _said(rule: Retention, history: History) -> pb.Retention:
    return pb.Retention(
        keep_last=rule.keep_last or 0,
        keep_days=rule.keep_days or 0,
        oldest_version=history.oldest if history.head_version else 0,
        head_version=history.head_version,
    )
