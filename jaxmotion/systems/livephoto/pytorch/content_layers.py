"""How LivePhoto's denoiser looks at the photo: DINOv2 patches, a linear layer, gated cross-attention in every block.

A layer belongs between the self-attention and the text attention of each spatial transformer block of a
`UNetMotionModel`. Blocks of diffusers have a place for one more layer there: they call what is named `fuser` (it was
made for GLIGEN) with what `cross_attention_kwargs={"gligen": {"objs": tokens}}` holds. `attach` puts each layer in its
place without making it a part of the U-Net, whose `state_dict` stays that of the stock class.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class ContentLayer(nn.Module):
    """x + tanh(gate) * attention of normed x to the tokens of the photo."""

    def __init__(self, dim, cross_attention_dim, heads):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, cross_attention_dim=cross_attention_dim, heads=heads, dim_head=dim // heads)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states, tokens):
        """hidden_states: [clips * frames, pixels, dim]; tokens: [clips, length, features], shared by all frames."""
        x = hidden_states.reshape(tokens.shape[0], -1, hidden_states.shape[-1]).to(self.gate.dtype)
        read = self.attention(self.norm(x), encoder_hidden_states=tokens.to(self.gate.dtype))
        return hidden_states + (torch.tanh(self.gate) * read).reshape(hidden_states.shape).to(hidden_states.dtype)


class ContentLayers(ModelMixin, ConfigMixin):
    """The linear layer after DINOv2, and the cross-attention layers by the block of the U-Net that they belong to.

    input_dim: width of DINOv2's tokens.
    cross_attention_dim: width of the tokens that the layers read.
    heads: attention heads of every layer.
    image_size: side in pixels of the square picture that DINOv2 is shown.
    blocks: features of each block, by its name in the U-Net, such as {"down_blocks.0.attentions.0": 320}.
    """

    @register_to_config
    def __init__(self, input_dim: int, cross_attention_dim: int, heads: int, image_size: int, blocks: dict):
        super().__init__()
        self.proj = nn.Linear(input_dim, cross_attention_dim)
        layers = {name: ContentLayer(dim, cross_attention_dim, heads) for name, dim in blocks.items()}
        self.layers = nn.ModuleDict({name.replace(".", "_"): layer for name, layer in layers.items()})

    def attach(self, unet):
        """Puts the layers into the U-Net's blocks; a second time changes nothing."""
        for name in self.config.blocks:
            block = unet.get_submodule(name).transformer_blocks[0]
            object.__setattr__(block, "fuser", self.layers[name.replace(".", "_")])

    def forward(self, patches):
        """Patch tokens of DINOv2 as the layers read them: [batch, length, cross_attention_dim]."""
        return self.proj(patches)
