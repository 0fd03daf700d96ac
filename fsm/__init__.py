"""The machines: declarative state machines that consume events and return effects."""
