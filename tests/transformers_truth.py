"""The attention modules of Hugging Face transformers on the weights of our layer."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn
from transformers.models.deepseek_v32 import modeling_deepseek_v32
from transformers.models.glm_moe_dsa import modeling_glm_moe_dsa

from dsa_ops.model import DsaAttention, DsaConfig


def _class_of(config: DsaConfig, suffix: str) -> type:
    if config.index_rope_interleaved:
        return getattr(modeling_glm_moe_dsa, "GlmMoeDsa" + suffix)
    return getattr(modeling_deepseek_v32, "DeepseekV32" + suffix)


def rotary_embedding(config: DsaConfig) -> nn.Module:
    return _class_of(config, "RotaryEmbedding")(_translated(config))


def _translated(config: DsaConfig) -> transformers.PreTrainedConfig:
    """The sizes of a layer as a configuration of transformers."""
    rope: dict = {"rope_type": "default", "rope_theta": config.rope.theta}
    if config.rope.yarn_factor > 1:
        rope |= {
            "rope_type": "yarn",
            "factor": config.rope.yarn_factor,
            "original_max_position_embeddings": config.rope.original_positions,
            "beta_fast": config.rope.beta_fast,
            "beta_slow": config.rope.beta_slow,
            "mscale": config.rope.mscale,
            "mscale_all_dim": config.rope.mscale_all_dim,
        }
    hf_config = _class_of(config, "Config")(
        num_hidden_layers=1,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        q_lora_rank=config.q_lora_rank,
        qk_nope_head_dim=config.qk_nope_head_dim,
        v_head_dim=config.v_head_dim,
        index_n_heads=config.index_heads,
        index_topk=config.index_topk,
        max_position_embeddings=config.max_positions,
        rope_parameters=rope,
    )
    hf_config._attn_implementation = "eager"
    return hf_config


class Truth:
    """Output and selected sets of the transformers module with the weights of ``layer``."""

    def __init__(self, layer: DsaAttention, hidden: Tensor):
        config = layer.config
        with torch.device("meta"):
            attention = _class_of(config, "Attention")(_translated(config), 0)
        attention.load_state_dict(layer.state_dict(), assign=True)
        rotary = rotary_embedding(config)
        attention.indexer.register_forward_hook(self._keep_selection)

        tokens = len(hidden)
        mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)
        positions = torch.arange(tokens)[None]
        with torch.no_grad():
            embeddings = rotary(hidden, positions)
            result = attention(hidden[None], embeddings, mask[None, None], position_ids=positions)
        self.output = result[0][0]

    def _keep_selection(self, module, args, indices: Tensor) -> None:
        # Rows with fewer keys than index_topk also list future keys there, which the mask removes.
        self.sets = [{i for i in row.tolist() if i <= t} for t, row in enumerate(indices[0])]
