"""Layer normalisation in place, and buffers that are used again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.engine.in_place import Buffers, normalised


@settings(max_examples=40)
@given(
    b=st.integers(1, 3),
    n=st.integers(1, 30),
    channels=st.sampled_from([1, 3, 32, 256]),
    with_added=st.booleans(),
    compiled=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_is_the_norm_of_the_sum(b, n, channels, with_added, compiled, threads, seed):
    torch.manual_seed(seed)
    norm = torch.nn.LayerNorm(channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x, added = 5 * torch.randn(b, n, channels) + 3, torch.randn(n, channels) if with_added else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            expected = norm((x if added is None else x + added).double().float())
            found = normalised(x.clone(), norm, added, compiled=compiled)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_happens_in_place_where_loops_are_compiled():
    pytest.importorskip("numba")
    x = torch.randn(2, 8, 16)
    assert normalised(x, torch.nn.LayerNorm(16)).data_ptr() == x.data_ptr()


def test_a_product_takes_the_place_of_the_last_one_of_its_name():
    buffers = Buffers(used=True)
    a, b = torch.randn(2, 6, 4), torch.randn(2, 4, 5)
    first = buffers.product("one", a, b)
    torch.testing.assert_close(first, a @ b)
    other = buffers.product("other", a, b)
    smaller = buffers.product("one", a[:1, :3], b[:1])
    torch.testing.assert_close(smaller, a[:1, :3] @ b[:1])
    torch.testing.assert_close(other, a @ b)
    assert smaller.data_ptr() == first.data_ptr() != other.data_ptr()
    assert Buffers(used=False).product("one", a, b).data_ptr() != first.data_ptr()
