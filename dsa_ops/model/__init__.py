"""The DeepSeek-Sparse-Attention layer of DeepSeek-V3.2 and GLM-5 as a PyTorch module."""

from .caches import LayerCache, Step
from .config import DsaConfig, RopeConfig, deepseek_v32, glm_5, small
from .layer import DsaAttention

__all__ = [
    "DsaAttention",
    "DsaConfig",
    "LayerCache",
    "RopeConfig",
    "Step",
    "deepseek_v32",
    "glm_5",
    "small",
]
