"""Clips with exactly known motion, by a renderer that shares no code with the one that the motion meter learnt from.

    python -m benchmarks.physics --out runs/physics

`photographs` are the textures, `paths` what cameras and things do over time, `clip` a clip before it is drawn and the
true speeds in it, `rendering` its frames, `effects` what cameras, editors and encoders do to them, `conditions` what is
drawn, `named` clips with a story, `invariance` scenes in several forms, `files` and `measuring` how clips are written
and measured, `report` the numbers, `runs` all of it, one after the other.
"""
