from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wanspec.engines.prefix_pool import PrefixPool, common_prefix, count_blocks
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import ConfigError, EngineError


def tokens(*values: int) -> NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)


def many(count: int, start: int = 0) -> NDArray[np.int32]:
    return np.arange(start, start + count, dtype=np.int32)


@given(left=st.lists(st.integers(0, 2)), right=st.lists(st.integers(0, 2)))
def test_common_prefix(left: list[int], right: list[int]) -> None:
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert common_prefix(tokens(*left), tokens(*right)) == expected


@pytest.mark.parametrize(
    ("reused", "total", "counts"), [(0, 1, (1, 0, 1)), (32, 33, (1, 1, 1)), (33, 60, (0, 2, 1)), (64, 64, (0, 2, 0))]
)
def test_blocks_are_counted(reused: int, total: int, counts: tuple[int, int, int]) -> None:
    blocks = count_blocks(reused, total)
    assert (blocks.alloc_new, blocks.reused, blocks.alloc_total) == counts


def test_only_ended_requests_are_reused_and_never_the_last_token(model: TorchModel) -> None:
    pool = PrefixPool(model.kv_shape, 1024)
    first = pool.acquire(many(10), 20)
    assert first is not None
    assert first.reused == 0
    running = pool.acquire(many(10), 20)
    assert running is not None
    assert running.reused == 0, "the first has not ended"
    pool.release(first, many(15))
    again = pool.acquire(many(10), 20)
    assert again is not None
    assert again.reused == 9
    assert again.buffer is first.buffer, "little is lost: in place"


def test_a_running_request_still_lends_what_it_took_over(model: TorchModel) -> None:
    pool = PrefixPool(model.kv_shape, 1024)
    first = pool.acquire(many(10), 20)
    assert first is not None
    first.buffer.keys[:, :, :10] = 7.0
    pool.release(first, many(10))
    taken = pool.acquire(many(11), 20)
    beside = pool.acquire(np.concatenate((many(6), tokens(60, 60))), 20)
    assert taken is not None
    assert beside is not None
    assert (taken.reused, beside.reused) == (10, 6)
    assert beside.buffer is not taken.buffer
    assert beside.buffer.keys[:, :, :6].eq(7.0).all()
    assert beside.buffer.keys[:, :, 6:].eq(0.0).all()


def test_long_prefixes_are_copied_when_much_would_be_lost(model: TorchModel) -> None:
    pool = PrefixPool(model.kv_shape, 1024)
    first = pool.acquire(many(100), 110)
    assert first is not None
    pool.release(first, many(100))
    branch = pool.acquire(np.concatenate((many(20), tokens(60))), 30)
    assert branch is not None
    assert branch.reused == 20
    assert branch.buffer is not first.buffer
    whole = pool.acquire(many(100), 110)
    assert whole is not None
    assert whole.reused == 99, "the long one is still there"


def test_the_least_recently_used_prefix_is_evicted(model: TorchModel) -> None:
    pool = PrefixPool(model.kv_shape, 192)
    for start in (0, 20, 40):
        lease = pool.acquire(many(10, start), 64)
        assert lease is not None
        pool.release(lease, many(10, start))
    newest = pool.acquire(many(10, 50), 64)
    assert newest is not None
    assert pool.allocated_tokens <= 192
    pool.release(newest, many(10, 50))
    oldest = pool.acquire(many(10, 0), 64)
    assert oldest is not None
    assert oldest.reused == 0


def test_no_room_until_a_running_request_ends(model: TorchModel) -> None:
    pool = PrefixPool(model.kv_shape, 128)
    first = pool.acquire(many(10), 100)
    assert first is not None
    assert pool.acquire(many(10, 20), 100) is None
    pool.release(first, many(50))
    assert pool.acquire(many(10, 20), 100) is not None


def test_discarded_buffers_are_gone(model: TorchModel) -> None:
    pool = PrefixPool(model.kv_shape, 128)
    lease = pool.acquire(many(10), 100)
    assert lease is not None
    pool.discard(lease)
    assert pool.allocated_tokens == 0


def test_impossible_sizes_are_refused(model: TorchModel) -> None:
    with pytest.raises(ConfigError, match="kv_tokens: 127 tokens do not hold one sequence of 128"):
        PrefixPool(model.kv_shape, 127)
    with pytest.raises(EngineError, match="129 tokens asked for, the context is 128"):
        PrefixPool(model.kv_shape, 128).acquire(many(10), 129)
