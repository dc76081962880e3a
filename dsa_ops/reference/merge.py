"""The union of two partial attentions."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_states(
    out_a: Tensor,
    lse_a: Tensor,
    out_b: Tensor,
    lse_b: Tensor,
    *,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    empty_a, empty_b = lse_a.isinf(), lse_b.isinf()
    lse_a = lse_a.to(compute_dtype).masked_fill(empty_a, -torch.inf)
    lse_b = lse_b.to(compute_dtype).masked_fill(empty_b, -torch.inf)
    both_empty = empty_a & empty_b
    largest = torch.maximum(lse_a, lse_b).masked_fill(both_empty, 0.0)
    weight_a, weight_b = torch.exp(lse_a - largest), torch.exp(lse_b - largest)
    total = weight_a + weight_b
    lse = largest + torch.log(total)

    share_a, share_b = (weight_a / total)[..., None], (weight_b / total)[..., None]
    # An empty part is not read: it may hold anything, NaN included.
    part_a = (out_a.to(compute_dtype) * share_a).masked_fill(empty_a[..., None], 0.0)
    part_b = (out_b.to(compute_dtype) * share_b).masked_fill(empty_b[..., None], 0.0)
    return (part_a + part_b).to(out_a.dtype), lse.float()
