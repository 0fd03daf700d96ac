"""A whole deployment in one thread: real machines and ends, a world made of one seed.

`loop` is time, `wire` the network, `storage` the server's disks, `replica` and `client` a machine
with a database, `watched` a server's end that is looked at more closely. `world` puts them
together, from what is in `beginning`; `scenario` plays a seed in it, and `oracle` knows what must
be true at the end; `sizes` makes small what is large, and `counted` names what is counted. `tables`
runs the machines' tables without their engine. Nothing here reads a clock, sleeps or draws from
anything but the seed, so that a seed always plays the same run.
"""
