"""`/docs`: the API to read and to try. The one page of ours, and allowed to load just what it names."""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from chassis.identity.principal import public

DOCUMENT, PAGE = "/openapi.json", "/docs"

router = APIRouter(dependencies=[public], include_in_schema=False)


@router.get(PAGE)
async def docs(request: Request) -> Response:
    """Swagger UI, which FastAPI's page loads from another host."""
    return _page(request.app.title)


@cache
def _page(title: str) -> Response:
    page = get_swagger_ui_html(openapi_url=DOCUMENT, title=title)
    html = bytes(page.body).decode()
    named = " ".join(sorted(set(re.findall(r'(?:src|href)="(https://[^"]+)"', html))))
    own = " ".join(f"'sha256-{_digest(script)}'" for script in re.findall(r"(?s)<script>(.*?)</script>", html))
    page.headers["content-security-policy"] = (
        f"default-src 'none'; script-src {named} {own}; style-src {named} 'unsafe-inline'; img-src {named} data:;"
        " connect-src 'self'; frame-ancestors 'none'"
    )
    return page


def _digest(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode()
