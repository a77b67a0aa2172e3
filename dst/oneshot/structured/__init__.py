"""Removing units of a trained network: neurons, channels, heads; a smaller dense one is left."""

from dst.oneshot.structured.flap import FLAP
from dst.oneshot.structured.groups import Group, Groups, Member, channel_groups
from dst.oneshot.structured.magnitude import Magnitude
from dst.oneshot.structured.removal import Removal
from dst.oneshot.structured.remove import remove
from dst.oneshot.structured.taylor import Taylor
from dst.oneshot.structured.units import Part, Read, Units, UnitScore
from dst.oneshot.structured.wanda import Wanda

__all__ = [
    "FLAP",
    "Group",
    "Groups",
    "Magnitude",
    "Member",
    "Part",
    "Read",
    "Removal",
    "Taylor",
    "UnitScore",
    "Units",
    "Wanda",
    "channel_groups",
    "remove",
]
