"""`edgereplica.admin.v1.AccountService` over Connect: a thin skin on `app.accounts`."""

from connectrpc.interceptor import UnaryInterceptor

from ..events.errors import InvalidArgument
from ..events.limits import RPC_MESSAGE_BYTES_MAX
from ..proto.gen.edgereplica.admin.v1 import accounts_pb as pb
from ..proto.gen.edgereplica.admin.v1 import admin_pb
from ..proto.gen.edgereplica.admin.v1.accounts_connect import (
    AccountService as AccountServiceProtocol,
)
from ..proto.gen.edgereplica.admin.v1.accounts_connect import AccountServiceASGIApplication
from .accounts import AccountService, MemberInfo, OrganizationInfo
from .connect_codecs import CODECS
from .logs import hold_secret
from .rpc import Context, ErrorsToConnect, auth_response, bearer_token
from .sessions import Sessions
from .tokens import VerifiedClaims


class AccountRpc(AccountServiceProtocol):
    """The generated protocol's `AccountService`, on the use cases."""

    def __init__(self, accounts: AccountService, sessions: Sessions) -> None:
        self._accounts = accounts
        self._sessions = sessions

    async def require_session(self, ctx: Context) -> VerifiedClaims:
        return await self._sessions.verify(bearer_token(ctx.request_headers.get("authorization")))

    async def logout(self, request: pb.LogoutRequest, ctx: Context, /) -> pb.LogoutResponse:
        await self._accounts.logout(await self.require_session(ctx))
        return pb.LogoutResponse()

    async def list_sessions(
        self, request: pb.ListSessionsRequest, ctx: Context, /
    ) -> pb.ListSessionsResponse:
        session = await self.require_session(ctx)
        return pb.ListSessionsResponse(
            sessions=[
                pb.Session(
                    id=info.session_id,
                    org_id=info.org_id,
                    method=info.method,
                    address=info.address,
                    agent=info.agent,
                    opened_at_unix=int(info.opened_at),
                    expires_at_unix=int(info.expires_at),
                    current=info.session_id == session.nonce.hex(),
                )
                for info in await self._accounts.list_sessions(session)
            ]
        )

    async def revoke_session(
        self, request: pb.RevokeSessionRequest, ctx: Context, /
    ) -> pb.RevokeSessionResponse:
        await self._accounts.revoke_session(await self.require_session(ctx), request.session_id)
        return pb.RevokeSessionResponse()

    async def revoke_token(
        self, request: pb.RevokeTokenRequest, ctx: Context, /
    ) -> pb.RevokeTokenResponse:
        hold_secret(request.token)
        session = await self.require_session(ctx)
        return pb.RevokeTokenResponse(
            purpose=await self._accounts.revoke_token(session, request.token)
        )

    async def revoke_all_tokens(
        self, request: pb.RevokeAllTokensRequest, ctx: Context, /
    ) -> pb.RevokeAllTokensResponse:
        await self._accounts.revoke_all(await self.require_session(ctx))
        return pb.RevokeAllTokensResponse()

    async def change_password(
        self, request: pb.ChangePasswordRequest, ctx: Context, /
    ) -> admin_pb.AuthResponse:
        hold_secret(request.old_password, request.new_password)
        session = await self.require_session(ctx)
        return auth_response(
            await self._accounts.change_password(
                session, request.old_password, request.new_password
            )
        )

    async def begin_o_auth(
        self, request: pb.BeginOAuthRequest, ctx: Context, /
    ) -> admin_pb.StartOAuthResponse:
        provider, port = request.provider, request.loopback_port
        if request.purpose == pb.OAuthPurpose.LOGIN:
            url, state = await self._accounts.begin_login(provider, port)
        elif request.purpose == pb.OAuthPurpose.LINK:
            session = await self.require_session(ctx)
            url, state = await self._accounts.begin_link(session, provider, port)
        else:
            raise InvalidArgument("the purpose is missing: login or link")
        hold_secret(state)
        return admin_pb.StartOAuthResponse(redirect_url=url, state=state)

    async def complete_link(
        self, request: pb.CompleteLinkRequest, ctx: Context, /
    ) -> pb.CompleteLinkResponse:
        hold_secret(request.state, request.code)
        session = await self.require_session(ctx)
        linked = await self._accounts.complete_link(session, request.state, request.code)
        return pb.CompleteLinkResponse(provider=linked.provider, email=linked.email)

    async def list_organizations(
        self, request: pb.ListOrganizationsRequest, ctx: Context, /
    ) -> pb.ListOrganizationsResponse:
        session = await self.require_session(ctx)
        found = await self._accounts.list_organizations(session)
        return pb.ListOrganizationsResponse(
            organizations=[_organization(info, session.org_id) for info in found]
        )

    async def switch_organization(
        self, request: pb.SwitchOrganizationRequest, ctx: Context, /
    ) -> admin_pb.AuthResponse:
        session = await self.require_session(ctx)
        return auth_response(await self._accounts.switch_organization(session, request.org_id))

    async def list_members(
        self, request: pb.ListMembersRequest, ctx: Context, /
    ) -> pb.ListMembersResponse:
        session = await self.require_session(ctx)
        found = await self._accounts.list_members(session)
        return pb.ListMembersResponse(members=[_member(info) for info in found])

    async def invite_member(
        self, request: pb.InviteMemberRequest, ctx: Context, /
    ) -> pb.InviteMemberResponse:
        session = await self.require_session(ctx)
        invitation, exp = await self._accounts.invite_member(session, request.email, request.role)
        hold_secret(invitation)
        return pb.InviteMemberResponse(invitation=invitation, exp_unix=exp)

    async def accept_invitation(
        self, request: pb.AcceptInvitationRequest, ctx: Context, /
    ) -> pb.AcceptInvitationResponse:
        hold_secret(request.invitation)
        session = await self.require_session(ctx)
        joined = await self._accounts.accept_invitation(session, request.invitation)
        return pb.AcceptInvitationResponse(organization=_organization(joined, session.org_id))

    async def set_member_role(self, request: pb.SetMemberRoleRequest, ctx: Context, /) -> pb.Member:
        session = await self.require_session(ctx)
        return _member(await self._accounts.set_member_role(session, request.user_id, request.role))

    async def remove_member(
        self, request: pb.RemoveMemberRequest, ctx: Context, /
    ) -> pb.RemoveMemberResponse:
        await self._accounts.remove_member(await self.require_session(ctx), request.user_id)
        return pb.RemoveMemberResponse()


def account_rpc_app(
    accounts: AccountService, sessions: Sessions, *guards: UnaryInterceptor
) -> AccountServiceASGIApplication:
    """The ASGI application of the service; it answers under its own standard path only."""
    return AccountServiceASGIApplication(
        AccountRpc(accounts, sessions),
        interceptors=[ErrorsToConnect(), *guards],
        read_max_bytes=RPC_MESSAGE_BYTES_MAX,
        codecs=CODECS,
    )


def _organization(info: OrganizationInfo, current: str) -> pb.Organization:
    return pb.Organization(
        id=info.org_id, name=info.name, role=info.role, current=info.org_id == current
    )


def _member(info: MemberInfo) -> pb.Member:
    return pb.Member(
        user_id=info.user_id, email=info.email, role=info.role, added_at_unix=int(info.added_at)
    )
