// A real `edgereplica serve` as a child process, behind a proxy that notes the HTTP methods used.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";

const EDGEREPLICA = process.env.EDGEREPLICA ?? "edgereplica";

/** Starts the server on a free port and a temporary data directory; resolves once it listens. */
export async function startServer() {
  const dataDir = await mkdtemp(path.join(os.tmpdir(), "edgereplica-js-"));
  const child = spawn(EDGEREPLICA, ["serve", "--port", "0", "--data-dir", dataDir], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, HOME: dataDir },
  });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const base = await new Promise((resolve, reject) => {
    const said = [];
    readline.createInterface({ input: child.stderr }).on("line", (line) => {
      said.push(line);
      const found = /listening on (http:\/\/\S+)/.exec(line);
      if (found) resolve(found[1]);
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`exited with ${code}: ${said.join("\n")}`)));
  });
  const proxy = await startProxy(base);
  return {
    base: proxy.base,
    methods: proxy.methods,
    async stop() {
      proxy.server.close();
      proxy.server.closeAllConnections();
      child.kill("SIGTERM");
      await exited;
      await rm(dataDir, { recursive: true });
    },
  };
}

async function startProxy(target) {
  const methods = [];
  const server = http.createServer((request, response) => {
    methods.push(`${request.method} ${new URL(request.url, target).pathname}`);
    const onward = http.request(
      new URL(request.url, target),
      { method: request.method, headers: request.headers },
      (answer) => {
        response.writeHead(answer.statusCode, answer.rawHeaders);
        answer.pipe(response);
      },
    );
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, methods, base: `http://127.0.0.1:${server.address().port}` };
}
