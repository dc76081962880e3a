"""The compiled cache, prepare and merge ops under torch.library.opcheck and torch.compile."""

from __future__ import annotations

import pytest
import torch

import dsa_ops
from tests.cache_arguments import GOOD_ARGUMENTS
from tests.gpu.cache_cases import cos_sin_cache, random_cache, random_rows
from tests.registration import opcheck


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_opcheck(op: str) -> None:
    arguments = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in GOOD_ARGUMENTS[op]().items()
    }
    opcheck(op, arguments)


def test_compiled_equals_eager() -> None:
    q, weights = random_rows(5, 8, 128), torch.randn(5, 8, device="cuda")
    positions, angles = torch.arange(5, device="cuda"), cos_sin_cache(6)

    def chain(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dsa_ops.write_index_cache(q[:, 0], cache, positions)
        q_out, folded = dsa_ops.prepare_index_q(
            q, positions, angles, weights, 0.25, interleaved=True, hadamard=True
        )
        return dsa_ops.merge_states(q_out.to(q.dtype), folded, q, weights)

    eager = random_cache(2, 64, 132, padding=16)
    traced = eager.clone()
    expected = chain(eager)
    result = torch.compile(chain, fullgraph=True, backend="aot_eager")(traced)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert torch.equal(eager, traced)
