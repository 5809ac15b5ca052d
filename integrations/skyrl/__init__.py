"""SkyRL: the environment as a text environment of SkyRL-gym, registered as `igsearch` when this is imported."""

from integrations.skyrl.env import ENV_ID, IGSearchTextEnv, register

register()

__all__ = ["ENV_ID", "IGSearchTextEnv", "register"]
