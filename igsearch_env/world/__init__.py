"""The bundled world: a synthetic encyclopaedia with questions, generated from a seed, and a small policy for it."""

from igsearch_env.world.generator import Hop, World, generate_world
from igsearch_env.world.wordings import FAMILIES

__all__ = ["FAMILIES", "Hop", "World", "generate_world"]
