"""The attention layer of DeepSeek-V3.2 and GLM-5 over the ops of this package."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from .. import reference
from ..formats import INDEX_HEAD_DIM, MLA_HEAD_DIM, MLA_LATENT_DIM, MLA_ROPE_DIM
from .caches import LayerCache, Step
from .config import DsaConfig
from .rope import apply_rope, cos_sin_cache, softmax_scale
from .steps import Float32Steps, Fp8Steps, IndexQuery, NewKeys

_BACKENDS = {"native": "dsa_ops", "reference": "dsa_ops.reference"}


class Indexer(nn.Module):
    """The projections of the lightning indexer."""

    def __init__(self, config: DsaConfig, *, dtype: torch.dtype, device: torch.device | None):
        super().__init__()
        self.heads = config.index_heads
        self.wq_b = nn.Linear(
            config.q_lora_rank,
            self.heads * INDEX_HEAD_DIM,
            bias=False,
            dtype=dtype,
            device=device,
        )
        self.wk = nn.Linear(
            config.hidden_size, INDEX_HEAD_DIM, bias=False, dtype=dtype, device=device
        )
        self.k_norm = nn.LayerNorm(INDEX_HEAD_DIM, eps=1e-6, dtype=torch.float32, device=device)
        # The head weights decide the sign and size of every logit: the models keep them float32.
        self.weights_proj = nn.Linear(
            config.hidden_size, self.heads, bias=False, dtype=torch.float32, device=device
        )

    def query(self, hidden: Tensor, q_residual: Tensor) -> IndexQuery:
        q = self.wq_b(q_residual).unflatten(-1, (self.heads, INDEX_HEAD_DIM))
        return IndexQuery(q, self.weights_proj(hidden.float()))


class DsaAttention(nn.Module):
    """DeepSeek Sparse Attention: index, select ``index_topk`` keys per token, attend to them.

    Parameters have the names of the published checkpoints, so a checkpoint's ``self_attn.*`` loads
    with ``load_state_dict``. Attention runs in the latent space (the key and value up-projections
    are absorbed into the query and the output), over the paged caches of ``new_cache``.

    ``backend``: ``"native"`` calls the public ops (CUDA kernels where they serve the device),
    ``"reference"`` calls ``dsa_ops.reference``. ``quantize=False`` keeps index keys and MLA rows in
    float32; it needs the reference backend and float32 weights. ``dtype`` is that of the weights
    and hidden states (head weights and the index key's LayerNorm are float32 always).

    >>> from dsa_ops.model import DsaAttention, small
    >>> layer = DsaAttention(small())
    >>> cache = layer.new_cache(num_requests=1, max_context_len=128)
    >>> layer.prefill(torch.randn(100, 512), cache).shape
    torch.Size([100, 512])
    >>> layer.decode(torch.randn(1, 2, 512), cache).shape
    torch.Size([1, 2, 512])
    """

    def __init__(
        self,
        config: DsaConfig,
        *,
        backend: str = "native",
        quantize: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if backend not in _BACKENDS:
            raise ValueError(
                f"DsaAttention: backend must be one of {list(_BACKENDS)}, got {backend!r}"
            )
        if not quantize and (backend, dtype) != ("reference", torch.float32):
            raise ValueError(
                "DsaAttention: quantize must be True unless backend is 'reference' and dtype is "
                f"float32, got backend {backend!r} and {dtype}"
            )
        device = torch.device(device) if device is not None else None
        self.config = config
        self.quantize = quantize
        self.softmax_scale = softmax_scale(config.rope, config.qk_head_dim)

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=False, dtype=dtype, device=device)

        def norm(size: int) -> nn.RMSNorm:
            return nn.RMSNorm(size, eps=config.norm_eps, dtype=dtype, device=device)

        heads, nope, value = config.num_heads, config.qk_nope_head_dim, config.v_head_dim
        self.q_a_proj = linear(config.hidden_size, config.q_lora_rank)
        self.q_a_layernorm = norm(config.q_lora_rank)
        self.q_b_proj = linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = linear(config.hidden_size, MLA_HEAD_DIM)
        self.kv_a_layernorm = norm(MLA_LATENT_DIM)
        self.kv_b_proj = linear(MLA_LATENT_DIM, heads * (nope + value))
        self.o_proj = linear(heads * value, config.hidden_size)
        self.indexer = Indexer(config, dtype=dtype, device=device)
        table = cos_sin_cache(config.rope, config.max_positions).to(device)
        module = importlib.import_module(_BACKENDS[backend])
        # Not the module, which cannot be copied or pickled.
        ops = SimpleNamespace(**{name: getattr(module, name) for name in reference.__all__})
        self.steps = (Fp8Steps if quantize else Float32Steps)(config, table, ops)

    def new_cache(
        self, num_requests: int, max_context_len: int, *, block_table: Tensor | None = None
    ) -> LayerCache:
        """An empty cache for this layer, on its device."""
        if max_context_len > self.config.max_positions:
            raise ValueError(
                f"DsaAttention: max_context_len must be at most {self.config.max_positions}, "
                f"got {max_context_len}"
            )
        return LayerCache(
            num_requests,
            max_context_len,
            quantize=self.quantize,
            block_table=block_table,
            device=self.steps.cos_sin.device,
        )

    @torch.no_grad()
    def prefill(
        self, hidden: Tensor, cache: LayerCache, request: int = 0, *, chunk_tokens: int = 4096
    ) -> Tensor:
        """Appends the tokens ``hidden[T, hidden_size]`` to one request; returns their outputs
        ``[T, hidden_size]``, in the dtype of the layer.

        Tokens run in chunks of ``chunk_tokens``, which bounds temporaries and changes nothing else.
        Raises ValueError for another shape or dtype, a request that the cache does not have, or
        more tokens than it has room for. Whatever it raises, the cache has the tokens it had.
        """
        self._check_hidden("prefill", hidden, (None, self.config.hidden_size))
        if chunk_tokens < 1:
            raise ValueError(f"prefill: chunk_tokens must be at least 1, got {chunk_tokens}")
        cache.check_room([request], len(hidden))
        outputs = []
        with cache.all_or_nothing():
            for chunk in hidden.split(chunk_tokens):
                step = cache.append([request], len(chunk))
                q, query = self._project_in(chunk, cache, step)
                slots = self.steps.select_prefill(cache, step, query)
                outputs.append(self._attend(q, cache, slots))
        return torch.cat(outputs)

    @torch.no_grad()
    def decode(
        self, hidden: Tensor, cache: LayerCache, requests: Sequence[int] | None = None
    ) -> Tensor:
        """Appends ``hidden[B, next_n, hidden_size]``, the next tokens of ``requests`` (default: all
        of the cache, in order); returns ``[B, next_n, hidden_size]``, in the dtype of the layer.

        Raises ValueError for another shape or dtype, requests that are repeated or that the cache
        does not have, or more tokens than it has room for. Whatever it raises, the cache has the
        tokens it had.
        """
        if requests is None:
            requests = range(len(cache.lengths))
        self._check_hidden("decode", hidden, (len(requests), None, self.config.hidden_size))
        if hidden.shape[1] < 1:
            raise ValueError("decode: hidden must be of 1 or more tokens per request, got 0")
        with cache.all_or_nothing():
            step = cache.append(list(requests), hidden.shape[1])
            q, query = self._project_in(hidden.flatten(0, 1), cache, step)
            slots = self.steps.select_decode(cache, step, query)
            return self._attend(q, cache, slots).view_as(hidden)

    def _check_hidden(self, method: str, hidden: Tensor, sizes: tuple[int | None, ...]) -> None:
        """Shape (None: any size) and dtype of hidden states."""
        dtype = self.o_proj.weight.dtype
        if hidden.dtype != dtype:
            raise ValueError(f"{method}: hidden must be {dtype}, got {hidden.dtype}")
        matches = hidden.dim() == len(sizes) and all(
            size in (None, got) for size, got in zip(sizes, hidden.shape, strict=True)
        )
        if not matches:
            shape = ", ".join("any" if size is None else str(size) for size in sizes)
            raise ValueError(
                f"{method}: hidden must be of shape [{shape}], got {list(hidden.shape)}"
            )

    def _up_projections(self) -> tuple[Tensor, Tensor]:
        """``W_UK[H, nope, 512]`` and ``W_UV[H, v, 512]``, views of ``kv_b_proj``."""
        nope, value = self.config.qk_nope_head_dim, self.config.v_head_dim
        weight = self.kv_b_proj.weight.view(self.config.num_heads, nope + value, MLA_LATENT_DIM)
        return weight[:, :nope], weight[:, nope:]

    def _project_in(
        self, hidden: Tensor, cache: LayerCache, step: Step
    ) -> tuple[Tensor, IndexQuery]:
        """Stores the keys of ``hidden[T, hidden_size]``; returns its queries, MLA's ``[T, H, 576]``
        already in the latent space."""
        cos_sin = self.steps.cos_sin[step.positions]
        latent, k_rope = self.kv_a_proj_with_mqa(hidden).split([MLA_LATENT_DIM, MLA_ROPE_DIM], -1)
        keys = NewKeys(
            latent=self.kv_a_layernorm(latent),
            rope=apply_rope(k_rope, cos_sin, interleaved=True),
            index_k=self.indexer.wk(hidden),
            index_norm=self.indexer.k_norm,
        )
        self.steps.store(cache, step, keys)

        q_residual = self.q_a_layernorm(self.q_a_proj(hidden))
        q = self.q_b_proj(q_residual).unflatten(-1, (self.config.num_heads, -1))
        q_nope, q_rope = q.split([self.config.qk_nope_head_dim, MLA_ROPE_DIM], dim=-1)
        q_latent = torch.einsum("thn,hnl->thl", q_nope, self._up_projections()[0])
        q_rope = apply_rope(q_rope, cos_sin[:, None], interleaved=True)
        query = self.indexer.query(hidden, q_residual)
        return torch.cat([q_latent, q_rope], dim=-1), query

    def _attend(self, q: Tensor, cache: LayerCache, slots: Tensor) -> Tensor:
        out = self.steps.attend(cache, q, slots, self.softmax_scale)
        values = torch.einsum("thl,hvl->thv", out, self._up_projections()[1])
        return self.o_proj(values.flatten(1))
