"""What tests raise in the middle of a fit."""


class Interrupted(Exception):
    """Stands for a user's Ctrl-C."""
