"""The bundled world: a synthetic encyclopaedia with questions, generated from a seed, and a small policy for it."""

from igsearch_env.world.generator import generate_world
from igsearch_env.world.options import HARD, WorldOptions
from igsearch_env.world.records import Hop, World
from igsearch_env.world.wordings import FAMILIES

__all__ = ["FAMILIES", "HARD", "Hop", "World", "WorldOptions", "generate_world"]
