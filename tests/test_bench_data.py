"""The bench's generators: index sets, scores, index vectors, caches."""

from __future__ import annotations

import pytest
import torch

from bench import data
from dsa_ops import formats

CPU = torch.device("cpu")


@pytest.mark.parametrize("indices", ["random", "local"])
def test_index_sets_are_ascending_unique_and_in_range(indices):
    sets = data.index_sets(CPU, 40, 4096, 512, indices, seed=3)
    assert sets.dtype == torch.int32
    assert (sets.diff(dim=1) > 0).all()
    assert sets.min() >= 0
    assert sets.max() < 4096


def _overlaps(sets: torch.Tensor) -> list[float]:
    rows = [set(row.tolist()) for row in sets]
    return [len(a & b) / len(a) for a, b in zip(rows, rows[1:], strict=False)]


def test_local_sets_share_85_percent_with_the_row_before():
    overlaps = _overlaps(data.index_sets(CPU, 40, 4096, 512, "local", seed=0))
    assert all(0.83 <= overlap <= 0.87 for overlap in overlaps)


def test_local_sets_hold_sinks_and_the_recent_window_and_nothing_later():
    rows, context = 8, 4096
    sets = data.index_sets(CPU, rows, context, 512, "local", seed=0)
    for row, chosen in enumerate(sets.tolist()):
        end = context - rows + 1 + row
        assert chosen[:4] == [0, 1, 2, 3]
        assert chosen[-64:] == list(range(end - 64, end))


def test_random_sets_overlap_no_more_than_chance():
    overlaps = _overlaps(data.index_sets(CPU, 20, 4096, 512, "random", seed=0))
    assert sum(overlaps) / len(overlaps) == pytest.approx(512 / 4096, abs=0.02)


def test_local_sets_refuse_a_context_without_room():
    with pytest.raises(ValueError, match="local sets: context must hold k=512 and 100 rows"):
        data.index_sets(CPU, 100, 600, 512, "local", seed=0)


def test_generators_repeat_with_their_seed():
    for kind in ("random", "model_like"):
        once, again = (data.scores(CPU, 4, 1000, kind, seed=5) for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.equal(once, data.scores(CPU, 4, 1000, kind, seed=6))


def test_model_like_scores_tie_at_zero_and_favour_sinks_and_recent_keys():
    scores = data.scores(CPU, 16, 20000, "model_like", seed=0)
    assert (scores == 0).float().mean().item() == pytest.approx(data.TIE_SHARE, abs=0.005)
    assert (scores < 0).any()
    assert scores[:, :4].abs().min() > scores[:, 4:].abs().mean()
    recent, old = scores[:, 10000:], scores[:, 4:10000]
    assert (recent > 0).sum() > 1.3 * (old > 0).sum()


@pytest.mark.parametrize("kind", ["random", "model_like"])
def test_index_vectors_give_the_scores_they_promise(kind):
    gen = data.generator(CPU, 0)
    q, weights = data.index_queries(gen, 8, 16, kind)
    k, k_scale = data.index_keys(gen, 5000, kind)
    dots = torch.einsum("thd,nd->thn", q.float(), k.float()).relu()
    logits = k_scale * torch.einsum("th,thn->tn", weights, dots)
    zeros = (logits == 0).float().mean().item()
    if kind == "model_like":
        assert zeros == pytest.approx(data.TIE_SHARE, abs=0.02)
    else:
        assert zeros < 0.01


def test_index_cache_holds_every_page_once_with_powers_of_two_as_scales():
    cache, block_table = data.index_cache(data.generator(CPU, 0), 3, 200, "random")
    assert cache.shape == (12, 64, 132)
    assert sorted(block_table.flatten().tolist()) == list(range(12))
    scales = formats.index_cache_views(cache)[1]
    mantissas, _ = torch.frexp(scales)
    assert (mantissas == 0.5).all()


def test_mla_cache_has_realistic_scales_and_finite_values():
    cache = data.mla_cache(data.generator(CPU, 0), 100)
    latent, scales, rope = formats.mla_cache_views(cache)
    assert latent.float().isfinite().all()
    assert latent.float().abs().amax() == 448
    assert rope.isfinite().all()
    assert 1e-4 < scales.min() < scales.max() < 1
