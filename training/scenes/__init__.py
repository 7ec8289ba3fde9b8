"""Generated scenes with exact masks at several levels, from a cup on a table to the legends on a keyboard's keys."""

from training.scenes.compose import make_scene
from training.scenes.labels import DETAIL, LEVELS, NOWHERE, OBJECT, PART, WHOLE, Scene
from training.scenes.textures import Bank

__all__ = ["DETAIL", "LEVELS", "NOWHERE", "OBJECT", "PART", "WHOLE", "Bank", "Scene", "make_scene"]
