"""The quickstart's smallest, without content tokens and re-weighted text: what compiles fastest of a whole system."""

import dataclasses

from jaxmotion.runs.experiment import load
from jaxmotion.systems.livephoto.reweighting import ReweightedText

_shipped = load("quickstart:smoke")
_conditioners = {name: each for name, each in _shipped.system.conditioners.items() if name != "content"}
assert isinstance(_conditioners["text"], ReweightedText)
_conditioners["text"] = _conditioners["text"].base
smoke = dataclasses.replace(_shipped, system=dataclasses.replace(_shipped.system, conditioners=_conditioners))
