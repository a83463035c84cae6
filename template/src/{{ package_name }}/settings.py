"""This service's variables, on top of the chassis's: each is read from APP_ and its name in capitals."""

from chassis.settings import Settings as ChassisSettings


class Settings(ChassisSettings):
    """Add a field, and put its variable into .env.example: a test compares the two.

    A secret is a `SecretStr`; it may then also come from a file, and a weak one is refused in production.
    """
