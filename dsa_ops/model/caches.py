"""The paged caches of one layer, and which tokens a step adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..formats import (
    INDEX_HEAD_DIM,
    INDEX_PAGE_TOKENS,
    INDEX_TOKEN_BYTES,
    MLA_HEAD_DIM,
    MLA_TOKEN_BYTES,
    new_index_cache,
    new_mla_cache,
)


@dataclass(frozen=True)
class Step:
    """``B`` requests that each add ``n`` tokens: where these tokens are and what they see."""

    positions: Tensor  #: int64 [B * n], in the token's own request
    slots: Tensor  #: int64 [B * n], page * 64 + offset in both caches
    context_lens: Tensor  #: int32 [B, n], keys that each token sees, itself included
    block_table: Tensor  #: int32 [B, pages_per_request]
    max_context_len: int  #: the largest context_lens, known to the host


class LayerCache:
    """Index keys and MLA rows of one layer, in pages of 64 tokens that both caches share.

    With ``quantize`` these are the FP8 formats of ``dsa_ops.formats``; without, float32 pages
    ``[pages, 64, 128]`` and ``[pages, 64, 576]``. Every request owns ``max_context_len`` tokens'
    worth of pages; ``block_table`` (default: in order) says which, every page once.
    """

    def __init__(
        self,
        num_requests: int,
        max_context_len: int,
        *,
        quantize: bool = True,
        block_table: Tensor | None = None,
        device: torch.device | str | None = None,
    ):
        page = INDEX_PAGE_TOKENS
        shape = (num_requests, -(-max_context_len // page))
        num_pages = shape[0] * shape[1]
        device = torch.device(device or "cpu")
        if block_table is None:
            block_table = torch.arange(num_pages, dtype=torch.int32).view(shape)
        if tuple(block_table.shape) != shape or block_table.dtype != torch.int32:
            raise ValueError(
                f"LayerCache: block_table must be int32 of shape {list(shape)}, "
                f"got {block_table.dtype} of shape {list(block_table.shape)}"
            )
        for expected, given in enumerate(sorted(block_table.flatten().tolist())):
            if given != expected:
                raise ValueError(
                    f"LayerCache: block_table must hold every page from 0 to {num_pages - 1} once, "
                    f"got {given}"
                )
        self.block_table = block_table.to(device)
        self.lengths = [0] * num_requests
        self.quantize = quantize
        if quantize:
            self.index = new_index_cache(num_pages, device=device)
            self.mla = new_mla_cache(num_pages, page, device=device)
        else:
            self.index = torch.zeros(num_pages, page, INDEX_HEAD_DIM, device=device)
            self.mla = torch.zeros(num_pages, page, MLA_HEAD_DIM, device=device)

    @property
    def capacity(self) -> int:
        """Tokens that one request can hold."""
        return self.block_table.shape[1] * INDEX_PAGE_TOKENS

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in both caches together."""
        if self.quantize:
            return INDEX_TOKEN_BYTES + MLA_TOKEN_BYTES
        return 4 * (INDEX_HEAD_DIM + MLA_HEAD_DIM)

    def check_room(self, requests: Sequence[int], tokens: int) -> list[int]:
        """The lengths of ``requests`` with ``tokens`` more in each; raises where that cannot be."""
        if len(set(requests)) != len(requests):
            raise ValueError(f"LayerCache: requests must be distinct, got {list(requests)}")
        count = len(self.lengths)
        if not all(0 <= request < count for request in requests):
            raise ValueError(
                f"LayerCache: requests must be from 0 to {count - 1}, got {list(requests)}"
            )
        lengths = [self.lengths[request] + tokens for request in requests]
        longest = max(lengths, default=0)
        if longest > self.capacity:
            raise ValueError(
                f"LayerCache: length must be at most {self.capacity} tokens, got {longest}"
            )
        return lengths

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Takes the lengths back if the block raises: what lies beyond them counts for nothing."""
        lengths = list(self.lengths)
        try:
            yield
        except BaseException:
            self.lengths[:] = lengths
            raise

    def append(self, requests: Sequence[int], tokens: int) -> Step:
        """Makes room for ``tokens`` more tokens in each request and says where they go."""
        lengths = self.check_room(requests, tokens)
        for request, length in zip(requests, lengths, strict=True):
            self.lengths[request] = length
        device = self.block_table.device
        ends = torch.tensor(lengths, dtype=torch.int64, device=device)[:, None]
        positions = ends - tokens + torch.arange(tokens, device=device)
        rows = torch.tensor(requests, dtype=torch.int64, device=device)
        block_table = self.block_table[rows]
        pages = block_table.gather(1, positions // INDEX_PAGE_TOKENS).long()
        slots = pages * INDEX_PAGE_TOKENS + positions % INDEX_PAGE_TOKENS
        return Step(
            positions=positions.flatten(),
            slots=slots.flatten(),
            context_lens=(positions + 1).int(),
            block_table=block_table,
            max_context_len=max(lengths, default=0),
        )
