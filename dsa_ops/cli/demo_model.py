"""The demo's stand-ins for a trained model: hidden states of a text and weights that fit them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import INDEX_HEAD_DIM, MLA_LATENT_DIM
from ..model import DsaAttention, DsaConfig

# A token's hidden state holds the last bytes, each weighted 0.8 of the one after it.
_WINDOW = 8
_DECAY = 0.8
# Share of a hidden state (in its norm) that all tokens have in common, as in trained models.
_COMMON = 0.3
# The attention score of a token with another in the same surroundings.
_MATCH_SCORE = 20.0


class HiddenStates:
    """Byte-level hidden states: the more of their last bytes agree, the closer two tokens are."""

    def __init__(self, text: bytes, config: DsaConfig, device: torch.device, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(11)
        self.tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().to(device)
        self.dtype = dtype
        size = config.hidden_size
        self.embedding = torch.randn(256, size, generator=generator).to(device)
        self.common = torch.randn(size, generator=generator).to(device)

    def __call__(self, start: int, end: int) -> Tensor:
        """``[end - start, hidden_size]`` with a mean square of 1."""
        positions = torch.arange(start, end, device=self.tokens.device)
        hidden = torch.zeros(end - start, self.embedding.shape[1], device=self.tokens.device)
        for lag in range(_WINDOW):
            tokens = self.tokens[(positions - lag).clamp(min=0)]
            hidden += _DECAY**lag * self.embedding[tokens]
        hidden *= torch.rsqrt(hidden.square().mean(-1, keepdim=True))
        return (hidden * (1 - _COMMON**2) ** 0.5 + _COMMON * self.common).to(self.dtype)


@torch.no_grad()
def initialise(layer: DsaAttention, common: Tensor) -> None:
    """Random weights in which similar tokens attend to each other and the indexer knows it.

    Queries see the hidden state through the same random projection as the latent keys, so a head's
    score measures similarity. The indexer compares a smaller projection of the same; its heads
    differ by noise, and their weights are about 1 because all hidden states share ``common``.
    """
    config, device = layer.config, common.device
    generator = torch.Generator(device).manual_seed(12)

    def normal(*shape: int, fan_in: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device) * fan_in**-0.5

    size, heads, nope = config.hidden_size, config.num_heads, config.qk_nope_head_dim
    shared = min(config.q_lora_rank, MLA_LATENT_DIM)

    def from_shared(weight: Tensor) -> Tensor:
        """Widens ``[..., shared]`` to all inputs of the query up-projections."""
        return torch.nn.functional.pad(weight, (0, config.q_lora_rank - shared))

    kv_a = normal(*layer.kv_a_proj_with_mqa.weight.shape, fan_in=size)
    q_a = normal(config.q_lora_rank, size, fan_in=size)
    q_a[:shared] = kv_a[:shared]
    kv_b = normal(*layer.kv_b_proj.weight.shape, fan_in=MLA_LATENT_DIM)
    key_up = kv_b.view(heads, -1, MLA_LATENT_DIM)[:, :nope, :shared]
    unscaled = nope * shared / MLA_LATENT_DIM * layer.softmax_scale
    q_b = 0.5 * normal(heads, config.qk_head_dim, config.q_lora_rank, fan_in=config.q_lora_rank)
    q_b[:, :nope] = from_shared(key_up * (_MATCH_SCORE / unscaled))

    index_up = normal(INDEX_HEAD_DIM, shared, fan_in=shared)
    head_up = index_up + 0.5 * normal(config.index_heads, *index_up.shape, fan_in=shared)
    head_weights = common / (_COMMON * size) + 0.3 * normal(config.index_heads, size, fan_in=size)

    layer.q_a_proj.weight.copy_(q_a)
    layer.q_b_proj.weight.copy_(q_b.flatten(0, 1))
    layer.kv_a_proj_with_mqa.weight.copy_(kv_a)
    layer.kv_b_proj.weight.copy_(kv_b)
    layer.o_proj.weight.copy_(normal(*layer.o_proj.weight.shape, fan_in=layer.o_proj.in_features))
    layer.indexer.wk.weight.copy_(index_up @ kv_a[:shared])
    layer.indexer.wq_b.weight.copy_(from_shared(head_up).flatten(0, 1))
    layer.indexer.weights_proj.weight.copy_(head_weights)
