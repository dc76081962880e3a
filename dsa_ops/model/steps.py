"""What happens between the projections of a layer: store, select, attend.

``Fp8Steps`` is the real thing, written with the public ops only. ``Float32Steps`` does the same
without quantisation, for comparisons against other implementations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..formats import INDEX_HEAD_DIM
from ..reference.prepare import layer_norm, rotate_index_vectors
from .caches import LayerCache, Step
from .config import DsaConfig

_SOFTMAX_SCALE = INDEX_HEAD_DIM**-0.5


class IndexQuery(NamedTuple):
    """What the indexer asks for, before RoPE and scaling."""

    q: Tensor  #: [T, index_heads, 128]
    weights: Tensor  #: float32 [T, index_heads]


class NewKeys(NamedTuple):
    """The keys that a step adds: MLA rows ready to store, the index key before its LayerNorm."""

    latent: Tensor  #: [T, 512]
    rope: Tensor  #: [T, 64], rotated
    index_k: Tensor  #: [T, 128]
    index_norm: nn.LayerNorm


class _Steps(nn.Module):
    """Holds the sizes, the float32 cos/sin table and the object whose ops are called."""

    cos_sin: Tensor

    def __init__(self, config: DsaConfig, cos_sin: Tensor, ops: Any):
        super().__init__()
        self.config = config
        self.ops = ops
        self.register_buffer("cos_sin", cos_sin, persistent=False)


class Fp8Steps(_Steps):
    """The layer over the FP8 caches; ``ops`` has those of ``dsa_ops`` or ``dsa_ops.reference``."""

    def store(self, cache: LayerCache, step: Step, keys: NewKeys) -> None:
        self.ops.prepare_index_k(
            keys.index_k.bfloat16(),
            keys.index_norm.weight,
            keys.index_norm.bias,
            keys.index_norm.eps,
            step.positions,
            self.cos_sin,
            cache.index,
            step.slots,
            interleaved=self.config.index_rope_interleaved,
            hadamard=self.config.index_hadamard,
        )
        self.ops.write_mla_cache(
            keys.latent.bfloat16(), keys.rope.bfloat16(), cache.mla, step.slots
        )

    def _prepare(self, step: Step, query: IndexQuery) -> tuple[Tensor, Tensor]:
        return self.ops.prepare_index_q(
            query.q.bfloat16(),
            step.positions,
            self.cos_sin,
            query.weights,
            _SOFTMAX_SCALE,
            interleaved=self.config.index_rope_interleaved,
            hadamard=self.config.index_hadamard,
        )

    def select_prefill(self, cache: LayerCache, step: Step, query: IndexQuery) -> Tensor:
        """int32 [T, index_topk] slots; many rows of one request share its gathered keys."""
        q, weights = self._prepare(step, query)
        keys = step.max_context_len
        cu_seq_lens = torch.tensor([0, keys], dtype=torch.int32, device=q.device)
        k, k_scale = self.ops.gather_index_cache(cache.index, step.block_table, cu_seq_lens, keys)
        row_ends = step.context_lens.flatten()
        return self.ops.indexer_topk(
            q,
            k,
            k_scale,
            weights,
            torch.zeros_like(row_ends),
            row_ends,
            self.config.index_topk,
            block_table=step.block_table,
        )

    def select_decode(self, cache: LayerCache, step: Step, query: IndexQuery) -> Tensor:
        """int32 [B * n, index_topk] slots, read from the paged cache in place."""
        q, weights = self._prepare(step, query)
        return self.ops.paged_indexer_topk(
            q.view(*step.context_lens.shape, *q.shape[1:]),
            cache.index,
            weights,
            step.context_lens,
            step.block_table,
            cache.capacity,
            self.config.index_topk,
            return_slots=True,
        )

    def attend(self, cache: LayerCache, q: Tensor, slots: Tensor, sm_scale: float) -> Tensor:
        """[T, H, 512]: a row is a token, so prefill and decode are the same call."""
        out, _ = self.ops.sparse_mla_decode(q.bfloat16(), cache.mla, slots, sm_scale)
        return out.to(q.dtype)


class Float32Steps(_Steps):
    """The same layer with float32 caches; ``ops`` has those of ``dsa_ops.reference``."""

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return rotate_index_vectors(
            x,
            positions,
            self.cos_sin,
            interleaved=self.config.index_rope_interleaved,
            hadamard=self.config.index_hadamard,
        )

    def store(self, cache: LayerCache, step: Step, keys: NewKeys) -> None:
        norm = keys.index_norm
        index = layer_norm(keys.index_k, norm.weight, norm.bias, norm.eps)
        cache.index.flatten(0, 1)[step.slots] = self._rotate(index, step.positions)
        cache.mla.flatten(0, 1)[step.slots] = torch.cat([keys.latent, keys.rope], dim=-1)

    def select_decode(self, cache: LayerCache, step: Step, query: IndexQuery) -> Tensor:
        """int32 [B * n, index_topk] slots, request by request."""
        q = self._rotate(query.q, step.positions[:, None])
        weights = query.weights * (_SOFTMAX_SCALE * self.config.index_heads**-0.5)
        batch, n = step.context_lens.shape
        top_k = self.config.index_topk
        selected = [torch.empty(0, top_k, dtype=torch.int32, device=q.device)]
        for request in range(batch):
            rows = slice(request * n, (request + 1) * n)
            table = step.block_table[request : request + 1]
            k = cache.index[table[0].long()].flatten(0, 1)
            row_ends = step.context_lens[request]
            logits = self.ops.indexer_logits(
                q[rows],
                k,
                torch.ones(len(k), device=k.device),
                weights[rows],
                torch.zeros_like(row_ends),
                row_ends,
            )
            selected.append(self.ops.topk(logits, top_k, row_ends, block_table=table))
        return torch.cat(selected)

    select_prefill = select_decode

    def attend(self, cache: LayerCache, q: Tensor, slots: Tensor, sm_scale: float) -> Tensor:
        return self.ops.sparse_mla_prefill(q, cache.mla.flatten(0, 1), slots, sm_scale)[0]
