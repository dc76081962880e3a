"""The cache, prepare and merge ops under torch.library.opcheck and torch.compile."""

from __future__ import annotations

import pytest
import torch

import dsa_ops
from dsa_ops._library import OPS
from tests.bad_inputs import in_schema_order
from tests.cache_arguments import BF16, GOOD_ARGUMENTS, cos_sin_cache, ints, paged, values
from tests.registration import in_bytes, opcheck, outputs_of


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_opcheck(op: str) -> None:
    opcheck(op, GOOD_ARGUMENTS[op]())


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_only_outputs_change(op: str) -> None:
    arguments = GOOD_ARGUMENTS[op]()
    outputs = outputs_of(op)
    before = in_bytes(arguments)
    OPS[op].overload(*in_schema_order(op, arguments))
    after = in_bytes(arguments)
    assert [name for name in before if not torch.equal(before[name], after[name])] == outputs


def test_compiled_round_trip_through_the_caches() -> None:
    def round_trip(k, latent, rope, slots, index_cache, mla_cache, block_table, cu_seq_lens):
        dsa_ops.write_index_cache(k, index_cache, slots)
        dsa_ops.write_mla_cache(latent, rope, mla_cache, slots)
        keys, scales = dsa_ops.gather_index_cache(index_cache, block_table, cu_seq_lens, 5)
        kv = dsa_ops.gather_mla_cache(mla_cache, block_table, cu_seq_lens, 5)
        return keys.float() * scales[:, None], kv * 2

    def arguments() -> tuple[torch.Tensor, ...]:
        return (
            values(5, 128),
            values(5, 512),
            values(5, 64),
            torch.arange(5),
            paged(2, 64, 132, 16),
            dsa_ops.new_mla_cache(2),
            torch.zeros(1, 1, dtype=torch.int32),
            ints(0, 5),
        )

    eager, traced = arguments(), arguments()
    expected = round_trip(*eager)
    result = torch.compile(round_trip, fullgraph=True, backend="aot_eager")(*traced)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert torch.equal(eager[4], traced[4]) and torch.equal(eager[5], traced[5])


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_prepare_and_merge(dynamic: bool) -> None:
    def chain(q, k, positions, angles, weights, cache, slots):
        dsa_ops.prepare_index_k(
            k, None, None, 1e-6, positions, angles, cache, slots, interleaved=True
        )
        q_fp8, folded = dsa_ops.prepare_index_q(
            q, positions, angles, weights, 0.25, interleaved=True, hadamard=True
        )
        widened = q_fp8.to(BF16)
        return dsa_ops.merge_states(widened, folded, q, weights)

    def arguments() -> tuple[torch.Tensor, ...]:
        q, k, slots = values(5, 8, 128), values(5, 128), torch.arange(5)
        weights = torch.linspace(-2, 2, 40).view(5, 8)
        return q, k, torch.arange(5), cos_sin_cache(6), weights, paged(2, 64, 132, 16), slots

    eager, traced = arguments(), arguments()
    expected = chain(*eager)
    result = torch.compile(chain, fullgraph=True, backend="aot_eager", dynamic=dynamic)(*traced)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert torch.equal(eager[5], traced[5])
