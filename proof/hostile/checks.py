"""The checks by name."""

from proof.running import Check

from . import bombs, frames, images, messages, servers, tokens

CHECKS = {
    "frames": Check(
        frames.damaged, 1_000_000, "frames", "bits flipped, ends cut off; for codecs and machines",
        10_000,
    ),
    "messages": Check(
        messages.messages, 100_000, "messages", "well-formed, hostile, for machines of every role",
        4_000,
    ),
    "bombs": Check(
        bombs.bombs, 10_000, "bombs", "small and claiming to be large; memory is measured", 400
    ),
    "servers": Check(
        servers.servers, 300, "syncs", "of a whole client with a server that lies", 36
    ),
    "images": Check(
        images.images, 5_000, "images", "mutated SQLite files, pushed and pulled into", 20
    ),
    "macaroons": Check(
        tokens.altered, 1_000_000, "macaroons", "altered without the key, none accepted", 20_000
    ),
    "caveats": Check(
        tokens.chains, 100_000, "chains", "of caveats appended, which may only take away", 3_000
    ),
}  # fmt: skip
