"""A whole deployment in one thread: real machines and ends, a world made of one seed.

`loop` is time, `wire` the network, `storage` the server's disks, `client` a machine with a
database, `world` puts them together and knows what must be true. Nothing here reads a clock,
sleeps or draws from anything but the seed, so that a seed always plays the same run.
"""
