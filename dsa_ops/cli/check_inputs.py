"""Small random inputs for every op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import formats, reference

ROWS, HEADS, INDEX_HEADS, TOP_K = 48, 64, 32, 128
REQUESTS, CONTEXT, NEXT_N = 3, 640, 2
PAGES_PER_REQUEST = CONTEXT // formats.INDEX_PAGE_TOKENS
SM_SCALE = formats.MLA_HEAD_DIM**-0.5


class Inputs:
    """Random inputs of all ops: ``REQUESTS`` requests in shuffled pages of two filled caches."""

    def __init__(self, device: torch.device):
        self.device = device
        self.generator = torch.Generator().manual_seed(20)
        tokens = REQUESTS * CONTEXT
        num_pages = REQUESTS * PAGES_PER_REQUEST
        self.block_table = self.permutation(num_pages).view(REQUESTS, PAGES_PER_REQUEST).int()
        self.lengths = [CONTEXT, 0, CONTEXT - 77]
        self.context_lens = torch.tensor(self.lengths, dtype=torch.int32, device=device)
        self.cu_seq_lens = torch.tensor([0, *self.lengths], device=device).cumsum(0).int()
        self.slots = self.permutation(tokens)
        self.slots[::9] = -1
        self.positions = torch.arange(tokens, device=device)
        angles = torch.outer(torch.arange(float(tokens)), 10_000 ** -torch.linspace(0, 0.97, 32))
        self.cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1).to(device)
        self.index_cache = formats.new_index_cache(num_pages, device)
        self.mla_cache = formats.new_mla_cache(num_pages, device=device)
        every_slot = torch.arange(tokens, device=device)
        reference.write_index_cache(self.normal(tokens, 128), self.index_cache, every_slot)
        latent, rope = self.normal(tokens, 512), self.normal(tokens, 64)
        reference.write_mla_cache(latent, rope, self.mla_cache, every_slot)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(dtype).to(self.device)

    def permutation(self, size: int) -> Tensor:
        return torch.randperm(size, generator=self.generator).to(self.device)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        values = torch.randint(low, high, shape, generator=self.generator, dtype=torch.int32)
        return values.to(self.device)

    def ragged(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``q, k, k_scale, weights, row_starts, row_ends`` of the ragged indexer ops."""
        q = self.normal(ROWS, INDEX_HEADS, 128).to(formats.FP8)
        k = self.normal(CONTEXT, 128).to(formats.FP8)
        k_scale = self.normal(CONTEXT, dtype=torch.float32).exp()
        weights = self.normal(ROWS, INDEX_HEADS, dtype=torch.float32)
        row_starts = self.integers(-3, 40, ROWS)
        row_ends = self.integers(0, CONTEXT + 40, ROWS)
        return q, k, k_scale, weights, row_starts, row_ends

    def paged(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]:
        """The arguments of the paged indexer ops, up to ``max_context_len``."""
        q = self.normal(REQUESTS, NEXT_N, INDEX_HEADS, 128).to(formats.FP8)
        weights = self.normal(REQUESTS * NEXT_N, INDEX_HEADS, dtype=torch.float32)
        return q, self.index_cache, weights, self.context_lens, self.block_table, CONTEXT

    def attention(self, limit: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """``q`` with scores of a few units, ``indices`` with empty entries, optional arguments."""
        q = 4 * self.normal(ROWS, HEADS, formats.MLA_HEAD_DIM)
        indices = self.integers(-limit // 8, limit, ROWS, TOP_K)
        indices[0] = -1
        options = {
            "topk_lens": self.integers(0, TOP_K + 1, ROWS),
            "attn_sink": self.normal(HEADS, dtype=torch.float32),
        }
        return q, indices, options
