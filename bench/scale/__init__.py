"""How the server scales: store requests, long histories, many databases, many clients."""
