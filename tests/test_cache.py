"""The preallocated cache: keeping a path is like having written only that path."""

import pytest
import torch

from fspad_ref.cache import KVCache
from fspad_ref.errors import InputError


def test_keep_gathers_in_place_even_where_source_and_destination_overlap():
    cache = KVCache(layers=2, kv_heads=1, head_dim=1, capacity=10)
    numbers = torch.arange(8.0).view(1, 1, 8, 1)
    for layer in range(2):
        keys, values = cache.write(layer, numbers + 100 * layer, -numbers)
    assert keys.shape == (1, 1, 8, 1) and cache.length == 8
    cache.keep(3, torch.tensor([0, 1, 2, 4]))
    assert cache.length == 7, "the prefix stays, and as many entries as there are rows"
    assert cache.kv[0, 0, 0, 0, :7, 0].tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert cache.kv[1, 1, 0, 0, :7, 0].tolist() == [0, -1, -2, -3, -4, -5, -7], "every layer, keys and values"


def test_writing_beyond_the_capacity_is_refused():
    cache = KVCache(1, 1, 1, capacity=3)
    with pytest.raises(InputError, match="at most 3 .*found 4"):
        cache.write(0, torch.zeros(1, 1, 4, 1), torch.zeros(1, 1, 4, 1))


def test_target_with_cache_equals_target_without(target):
    ids = torch.arange(2, 20)[None]
    cache = target.new_cache(30)
    parts = torch.cat([target.features(part, cache=cache) for part in ids.split([5, 1, 8, 4], dim=1)], dim=1)
    torch.testing.assert_close(parts, target.features(ids), rtol=0, atol=1e-6)
