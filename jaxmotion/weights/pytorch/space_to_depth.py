"""A codec without training: the cosine transform of each block of pixels, in the place of a variational autoencoder."""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class SpaceToDepth(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Pixels [N, 3, H, W] in [-1, 1] to latents [N, 3 * factor^2, H / factor, W / factor] and back, exactly.

    Channel 3 (u * factor + v) + colour holds vertical frequency u and horizontal frequency v. `basis` holds the
    two-dimensional cosines as rows over a flattened block; it is orthonormal.

    scaling_factor: what the pipeline multiplies latents by, as with `AutoencoderKL`.

    Blocks do not know each other, so tiles and slices would give the same numbers; there is little memory to be saved,
    and `enable_tiling` and `enable_slicing` change nothing.
    """

    use_tiling = use_slicing = False

    @register_to_config
    def __init__(self, factor: int = 4, scaling_factor: float = 1.0):
        super().__init__()
        angles = [[math.pi * (p + 0.5) * u / factor for p in range(factor)] for u in range(factor)]
        cosines = torch.cos(torch.tensor(angles)) * math.sqrt(2 / factor)
        cosines[0] /= math.sqrt(2)
        self.basis = nn.Parameter(torch.kron(cosines, cosines), requires_grad=False)

    @apply_forward_hook
    def encode(self, x, return_dict=True):
        """Latents, in the form of `AutoencoderKL.encode`."""
        blocks = pixel_unshuffle(x, self.config.factor).unflatten(1, (3, -1))
        latents = torch.einsum("fp,ncphw->nfchw", self.basis, blocks).flatten(1, 2)
        return AutoencoderKLOutput(latent_dist=IdentityDistribution(latents))

    @apply_forward_hook
    def decode(self, z, return_dict=True):
        """Pixels, in the form of `AutoencoderKL.decode`."""
        blocks = torch.einsum("fp,nfchw->ncphw", self.basis, z.unflatten(1, (-1, 3)))
        return DecoderOutput(sample=pixel_shuffle(blocks.flatten(1, 2), self.config.factor))

    def forward(self, x):
        """Pixels to latents and back."""
        return self.decode(self.encode(x).latent_dist.mode())
