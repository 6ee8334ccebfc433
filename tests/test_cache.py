"""The preallocated cache: keeping a path is like having written only that path."""

import pytest
import torch
from conftest import tree_of

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


def test_tree_forward_equals_one_forward_per_path_and_keep_equals_a_fresh_prefill(target):
    prefix, tree = torch.arange(2, 9)[None], tree_of([3, 5, 7, 9, 11, 13, 15], [0, 0, 0, 1, 1, 2, 4])
    cache = target.new_cache(30)
    target.features(prefix, cache=cache)
    features = target.tree_features(tree.token, tree.depth, tree.ancestors, cache)
    for v in range(7):
        path = tree.ancestors[v].nonzero().flatten()
        fresh, text = target.new_cache(30), torch.cat((prefix, tree.token[path][None]), dim=1)
        torch.testing.assert_close(features[v], target.features(text, cache=fresh)[0, -1], rtol=0, atol=1e-6)
    cache.keep(7, path)  # of the last node, 0 - 1 - 4 - 6
    assert cache.length == fresh.length == 11
    torch.testing.assert_close(cache.kv[..., :11, :], fresh.kv[..., :11, :], rtol=0, atol=1e-6)
