"""What the mails say. Every link begins with APP_PUBLIC_URL, and never with anything that a request said.

The token is in the link's fragment, which browsers send to nobody: it is in no log and no Referer. The page there reads
it and posts it to the endpoint of the same purpose.
"""

from chassis.features import PROJECT
from chassis.identity.mail import Mail


class Letters:
    """The letters of a service that is reached at `origin`."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def verify(self, to: str, token: str) -> Mail:
        return self._with_link(
            to,
            "Confirm your address",
            "somebody, presumably you, has signed up with this address. To confirm it, follow this link within a day:",
            "verify",
            token,
        )

    def known(self, to: str, token: str) -> Mail:
        return self._with_link(
            to,
            "You have an account already",
            "somebody, presumably you, has tried to sign up with this address, which has an account. Sign in as you "
            "did before; or choose a new password with this link within half an hour:",
            "reset",
            token,
        )

    def reset(self, to: str, token: str) -> Mail:
        return self._with_link(
            to,
            "Choose a new password",
            "somebody, presumably you, wants a new password for your account. Choose it with this link within half an "
            "hour:",
            "reset",
            token,
        )

    def password_changed(self, to: str) -> Mail:
        text = (
            "Hello,\n\nthe password of your account has just been changed, and everybody who was signed in is signed "
            f"out.\nIf that was not you, ask for a new one at once:\n\n    {self._origin}/auth/forgot\n"
        )
        return Mail(to, f"{PROJECT}: Your password was changed", text)

    def invitation(self, to: str, tenant: str, token: str) -> Mail:
        return self._with_link(
            to,
            "You are invited",
            f"you are invited to work in “{tenant}”. Sign in or sign up with this address, and then accept with this "
            "link within a week:",
            "invitation",
            token,
        )

    def _with_link(self, to: str, subject: str, text: str, page: str, token: str) -> Mail:
        link = f"{self._origin}/auth/{page}#token={token}"
        text = f"Hello,\n\n{text}\n\n    {link}\n\nIf this was not you, do nothing: nothing will happen.\n"
        return Mail(to, f"{PROJECT}: {subject}", text)
