"""Norms of motion modules that take each frame alone, as AnimateDiff's own code does (arXiv:2307.04725)."""

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D


class FrameNorm(torch.nn.GroupNorm):
    """A group norm of clips [batch, channels, frames, height, width] that takes each frame alone."""

    def forward(self, clips):
        frames = super().forward(clips.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (clips.shape[0], clips.shape[2])).transpose(1, 2)


def norm_frames(unet):
    """Makes the motion modules of a U-Net norm each frame alone; diffusers' own norm the whole clip."""
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm.__class__ = FrameNorm  # its parameters, hooks and place stay what they are
