"""The server of `integrations.openenv`."""
