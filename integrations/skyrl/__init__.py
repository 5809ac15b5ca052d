"""SkyRL: the environment as a text environment of SkyRL-gym, registered as `igsearch` when this is imported."""

from retrievers.reading import import_optional

import_optional("skyrl_gym", "skyrl", "integrations.skyrl")

from integrations.skyrl.env import ENV_ID, IGSearchTextEnv, register  # noqa: E402

register()

__all__ = ["ENV_ID", "IGSearchTextEnv", "register"]
