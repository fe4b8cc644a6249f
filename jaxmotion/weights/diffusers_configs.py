"""The form of a config.json of diffusers. Each file in `tables/` makes those of the classes that hold its network.

Source: the classes of diffusers 0.42 and transformers 5.
"""

from __future__ import annotations

from jaxmotion.foundation.config_json import Json, JsonValue

DIFFUSERS = "0.42.1"
"""The version of diffusers that exports are written for and tested with."""


def config_of(class_name: str, **arguments: JsonValue) -> Json:
    """Returns the config.json of a class of diffusers, or of one that is made like those."""
    return {"_class_name": class_name, "_diffusers_version": DIFFUSERS, **arguments}
