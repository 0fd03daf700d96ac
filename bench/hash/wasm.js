// Hash pages in WebAssembly: `node wasm.js PAGE_BYTES PAGES ROUNDS`. Prints JSON: seconds of every
// round by algorithm, and the digest of the first page so that the host's can be compared with it.

import { createBLAKE2b, createBLAKE2s, createBLAKE3, createSHA256, createXXHash128 } from "hash-wasm";

const [pageBytes, pages, rounds] = process.argv.slice(2).map(Number);
const hashers = {
  "SHA-256": await createSHA256(),
  BLAKE2b: await createBLAKE2b(256),
  BLAKE2s: await createBLAKE2s(256),
  BLAKE3: await createBLAKE3(256),
  XXH3: await createXXHash128(),
};

const data = new Uint8Array(pageBytes * pages);
// Page contents do not change the speed; a counter keeps the pages different and known.
new Uint32Array(data.buffer).forEach((_, at, words) => (words[at] = Math.imul(at, 2654435761)));

const seconds = {};
const digests = {};
for (const [name, hasher] of Object.entries(hashers)) {
  digests[name] = hasher.init().update(data.subarray(0, pageBytes)).digest("hex");
  seconds[name] = [];
}
// The first rounds run in code that Node has not optimized yet; they are not counted.
for (let round = -2; round < rounds; round++) {
  for (const [name, hasher] of Object.entries(hashers)) {
    const started = process.hrtime.bigint();
    for (let at = 0; at < data.length; at += pageBytes) {
      hasher.init().update(data.subarray(at, at + pageBytes)).digest("binary");
    }
    const took = Number(process.hrtime.bigint() - started) / 1e9;
    if (round >= 0) seconds[name].push(took);
  }
}
console.log(JSON.stringify({ seconds, digests, node: process.version }));
