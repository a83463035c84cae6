"""The composition root: settings and modules in, the application out."""

from chassis import create_app

from . import orders, webhooks
from .settings import Settings

app = create_app(Settings, modules=[orders.module, webhooks.module])
