"""Plugs for the ports in `adapters.ports`: repositories, page storage, local files, transports."""
