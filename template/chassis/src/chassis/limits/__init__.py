"""How often somebody may ask: by client address, account and tenant, and more strictly where secrets are guessed."""
