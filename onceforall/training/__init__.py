"""Training: the loop, what it minimises, which archs a step trains, and its settings."""

from onceforall.training.alone import Alone, Static
from onceforall.training.config import load_settings, recipes, settings_from_dict, source_of
from onceforall.training.curricula import Curriculum, Phase, PhasePlan, curriculum
from onceforall.training.loop import Outcome, train
from onceforall.training.ranks import Group
from onceforall.training.settings import PhaseSettings, Settings

__all__ = [
    "Alone",
    "Curriculum",
    "Group",
    "Outcome",
    "Phase",
    "PhaseSettings",
    "Settings",
    "PhasePlan",
    "Static",
    "curriculum",
    "load_settings",
    "recipes",
    "settings_from_dict",
    "source_of",
    "train",
]
