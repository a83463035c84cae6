"""What a command says when it cannot do what it was asked for."""


class Failure(Exception):
    """Something failed for a reason that whoever asked can act upon. Its text is one line for them; exit code 1."""
