"""One file per published method.

A file marks its method with ``@named("name", kind="...")``. Configs, ``dst methods``, reports, the
site and ``dst.Name`` find it by that mark.
"""

from dst.core.registry import Registry
from dst.rules.method import Preset

REGISTRY = Registry("method", "dst.methods", "dst.contrib")
_THINGS = {name: entry.load() for name, entry in REGISTRY.items()}

#: What methods do with connections, in the order of lists.
KINDS = (
    "drop and grow",
    "prune and grow",
    "gradual pruning",
    "pruning at initialisation",
    "latent weights",
    "fixed masks",
)
#: The methods by their names in configs.
METHODS = {name: x for name, x in _THINGS.items() if isinstance(x, type)}
#: The presets: functions that return a method with a paper's settings.
PRESETS = {name: x for name, x in _THINGS.items() if name not in METHODS}
#: The same presets, taken apart.
SETTINGS: dict[str, Preset] = {name: make.preset for name, make in PRESETS.items()}

globals().update({x.__name__: x for x in _THINGS.values()})
