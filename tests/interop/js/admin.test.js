// The official Connect clients against a real server: every call, every refusal, each transport.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";

import { AdminService, Direction } from "./gen/edgereplica/admin/v1/admin_pb.js";
import { startServer } from "./server.js";

const PASSWORD = "correct horse battery";
const SERVICE = "/edgereplica.admin.v1.AdminService";

const TRANSPORTS = {
  "connect-node, JSON": (base) =>
    node.createConnectTransport({ ...http1(base), useBinaryFormat: false }),
  "connect-node, binary": (base) =>
    node.createConnectTransport({ ...http1(base), useBinaryFormat: true }),
  "connect-web, JSON": (base) =>
    web.createConnectTransport({ baseUrl: base, useHttpGet: true, useBinaryFormat: false }),
  "connect-web, binary": (base) =>
    web.createConnectTransport({ baseUrl: base, useHttpGet: true, useBinaryFormat: true }),
};

function http1(base) {
  return { baseUrl: base, httpVersion: "1.1", useHttpGet: true };
}

function bearer(token) {
  return { headers: { Authorization: `Bearer ${token}` } };
}

async function refused(call, code) {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof ConnectError, String(error));
    assert.equal(Code[error.code], Code[code], error.message);
    assert.notEqual(error.rawMessage, "");
    return true;
  });
}

let server;
let emails = 0;
before(async () => {
  server = await startServer();
});
after(async () => {
  await server?.stop();
});

for (const [name, transport] of Object.entries(TRANSPORTS)) {
  describe(name, () => {
    let client;
    const email = `person-${++emails}@example.org`;
    let session;
    before(() => {
      client = createClient(AdminService, transport(server.base));
    });

    test("signs up and is who it says", async () => {
      const answer = await client.signup({ email, password: PASSWORD });
      assert.ok(answer.sessionToken);
      assert.equal(answer.whoami.email, email);
      assert.equal(answer.whoami.role, "admin");
      session = bearer(answer.sessionToken);
      const { whoami } = await client.whoami({}, session);
      assert.deepEqual(whoami, answer.whoami);
    });

    test("logs in", async () => {
      const answer = await client.login({ email, password: PASSWORD });
      assert.equal(answer.whoami.email, email);
    });

    test("creates, lists, issues tokens and deletes", async () => {
      const before = BigInt(Math.floor(Date.now() / 1000)) - 5n;
      const made = await client.createDatabase({ name: "main" }, session);
      assert.equal(made.name, "main");
      assert.ok(made.id && made.orgId);
      assert.ok(made.createdAtUnix >= before);
      const listed = await client.listDatabases({}, session);
      assert.deepEqual(listed.databases, [made]);
      for (const direction of [Direction.PUSH, Direction.PULL]) {
        const asked = { databaseId: made.id, direction, ttlSeconds: 60n };
        const issued = await client.issueSyncToken(asked, session);
        assert.ok(issued.token);
        assert.ok(issued.expUnix >= before + 60n && issued.expUnix <= before + 120n);
      }
      await client.deleteDatabase({ databaseId: made.id }, session);
      assert.deepEqual((await client.listDatabases({}, session)).databases, []);
    });

    test("asks for what has no side effects with GET", async () => {
      server.methods.length = 0;
      await client.whoami({}, session);
      await client.listDatabases({}, session);
      assert.deepEqual(server.methods, [
        `GET ${SERVICE}/Whoami`,
        `GET ${SERVICE}/ListDatabases`,
      ]);
    });

    test("wrong password and unknown e-mail are both unauthenticated", async () => {
      const wrong = "wrong horse battery";
      await refused(client.login({ email, password: wrong }), Code.Unauthenticated);
      const unknown = { email: `nobody-${email}`, password: PASSWORD };
      await refused(client.login(unknown), Code.Unauthenticated);
    });

    test("no session and a bad session are unauthenticated", async () => {
      await refused(client.whoami({}), Code.Unauthenticated);
      await refused(client.listDatabases({}, bearer("garbage")), Code.Unauthenticated);
      await refused(client.createDatabase({ name: "x" }), Code.Unauthenticated);
    });

    test("what exists already", async () => {
      const again = { email: email.toUpperCase(), password: PASSWORD };
      await refused(client.signup(again), Code.AlreadyExists);
      await client.createDatabase({ name: "twice" }, session);
      await refused(client.createDatabase({ name: "twice" }, session), Code.AlreadyExists);
    });

    test("what is missing, and another organization's alike", async () => {
      const missing = { databaseId: "0".repeat(32) };
      await refused(client.deleteDatabase(missing, session), Code.NotFound);
      const theirs = await client.signup({ email: `other-${email}`, password: PASSWORD });
      const database = await client.createDatabase({ name: "theirs" }, bearer(theirs.sessionToken));
      const asked = { databaseId: database.id, direction: Direction.PULL };
      await refused(client.issueSyncToken(asked, session), Code.NotFound);
      await refused(client.deleteDatabase({ databaseId: database.id }, session), Code.NotFound);
    });

    test("bad input", async () => {
      await refused(client.signup({ email: "nobody", password: PASSWORD }), Code.InvalidArgument);
      const short = { email: `short-${email}`, password: "seven77" };
      await refused(client.signup(short), Code.InvalidArgument);
      await refused(client.createDatabase({ name: "no spaces" }, session), Code.InvalidArgument);
      const { id } = await client.createDatabase({ name: "tokens" }, session);
      await refused(client.issueSyncToken({ databaseId: id }, session), Code.InvalidArgument);
    });

    test("OAuth without a provider is unimplemented", async () => {
      await refused(client.startOAuth({ provider: "github" }), Code.Unimplemented);
    });
  });
}
