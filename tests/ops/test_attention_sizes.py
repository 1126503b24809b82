import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from subquad.ops.attention_sizes import hybrid_chunked_operations
from subquad.ops.linattn import hybrid_chunked

HEADS = {"B": 2, "Hq": 6, "Hkv": 2, "K": 5, "V": 7, "F": 3}


@pytest.mark.parametrize("T", [1, 13, 41])
@pytest.mark.parametrize("feature_heads", [6, 2])
@pytest.mark.parametrize(
    ("window_shape", "sinks", "cache"),
    [("sliding", 0, 0), ("sliding", 3, 0), ("terrace", 3, 0), ("terrace", 3, 5), ("none", 0, 0)],
)
def test_operations_of_hybrid_attention_are_those_that_torch_counts(window_shape, sinks, cache, feature_heads, T):
    shape = {"window_shape": window_shape, "sinks": sinks, "cache": cache}
    B, Hq, Hkv, K, V, F = HEADS.values()
    inputs = {
        "q": torch.randn(B, Hq, T, K),
        "k": torch.randn(B, Hkv, T, K),
        "v": torch.randn(B, Hkv, T, V),
        "phi_q": torch.rand(B, Hq, T, F),
        "phi_k": torch.rand(B, feature_heads, T, F),
        "mix": torch.randn(Hq),
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hybrid_chunked(**inputs, window=11, **shape)
    expected = hybrid_chunked_operations(**HEADS, Hf=feature_heads, T=T, w=11, **shape)
    assert counter.get_total_flops() == expected
