"""Sizes of a DeepSeek-Sparse-Attention layer, with those of the published models."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..formats import INDEX_HEAD_COUNTS, MAX_ATTENTION_HEADS, MAX_TOP_K, MLA_ROPE_DIM


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding; ``yarn_factor > 1`` turns YaRN on (https://arxiv.org/abs/2309.00071)."""

    theta: float = 10_000.0
    yarn_factor: float = 1.0
    original_positions: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


@dataclass(frozen=True)
class DsaConfig:
    """Sizes of one attention layer.

    Fixed by the formats, hence no fields: latent 512, RoPE 64, index head dim 128, page 64 tokens.
    """

    hidden_size: int
    num_heads: int
    q_lora_rank: int
    qk_nope_head_dim: int
    v_head_dim: int
    index_heads: int
    index_topk: int
    max_positions: int
    #: RoPE of the index heads: pairs (2i, 2i+1) when True, (i, i+32) when False.
    index_rope_interleaved: bool = False
    #: Hadamard transform of index queries and keys before quantisation.
    index_hadamard: bool = False
    norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)

    def __post_init__(self) -> None:
        if self.index_heads not in INDEX_HEAD_COUNTS:
            raise ValueError(
                f"DsaConfig: index_heads must be one of {INDEX_HEAD_COUNTS}, got {self.index_heads}"
            )
        if not 1 <= self.num_heads <= MAX_ATTENTION_HEADS:
            raise ValueError(
                f"DsaConfig: num_heads must be 1 to {MAX_ATTENTION_HEADS}, got {self.num_heads}"
            )

        if not 1 <= self.index_topk <= MAX_TOP_K:
            raise ValueError(
                f"DsaConfig: index_topk must be 1 to {MAX_TOP_K}, got {self.index_topk}"
            )

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + MLA_ROPE_DIM


def deepseek_v32() -> DsaConfig:
    """DeepSeek-V3.2 (also V3.2-Exp and V3.2-Speciale)."""
    return DsaConfig(
        hidden_size=7168,
        num_heads=128,
        q_lora_rank=1536,
        qk_nope_head_dim=128,
        v_head_dim=128,
        index_heads=64,
        index_topk=2048,
        max_positions=163_840,
        index_hadamard=True,
        rope=RopeConfig(yarn_factor=40.0),
    )


def glm_5() -> DsaConfig:
    """GLM-5 and GLM-5.1: fewer heads, wider values, interleaved RoPE in the indexer, no YaRN."""
    return DsaConfig(
        hidden_size=6144,
        num_heads=64,
        q_lora_rank=2048,
        qk_nope_head_dim=192,
        v_head_dim=256,
        index_heads=32,
        index_topk=2048,
        max_positions=202_752,
        index_rope_interleaved=True,
        rope=RopeConfig(theta=1_000_000.0),
    )


def small() -> DsaConfig:
    """DeepSeek-V3.2's structure at a size for one CPU core."""
    return DsaConfig(
        hidden_size=512,
        num_heads=8,
        q_lora_rank=512,
        qk_nope_head_dim=64,
        v_head_dim=64,
        index_heads=16,
        index_topk=256,
        max_positions=163_840,
        index_hadamard=True,
        rope=RopeConfig(yarn_factor=40.0),
    )
