"""The preallocated cache: keeping a path is like having written only that path."""

import pytest
import torch

from fspad_ref.cache import KVCache
from fspad_ref.errors import InputError
from fspad_ref.tree import ancestors


def test_keep_gathers_in_place_even_where_source_and_destination_overlap():
    cache = KVCache(layers=2, kv_heads=1, head_dim=1, capacity=10)
    numbers = torch.arange(8.0).view(1, 1, 8, 1)
    for layer in range(2):
        keys, values = cache.write(layer, numbers + 100 * layer, -numbers)
    assert keys.shape == (1, 1, 8, 1) and cache.length == 8
    cache.keep(3, torch.tensor([0, 1, 2, 4]))
    assert cache.length == 7, "law broken: keep() leaves the prefix and as many entries as it was given rows"
    keys, values = cache.kv[0, 0, 0, 0, :7, 0].tolist(), cache.kv[1, 1, 0, 0, :7, 0].tolist()
    assert keys == [0, 1, 2, 3, 4, 5, 7], f"law broken: keep() gathers the kept rows to the front; found {keys}"
    assert values == [0, -1, -2, -3, -4, -5, -7], f"law broken: keep() gathers every layer; found {values}"


def test_writing_beyond_the_capacity_is_refused():
    cache = KVCache(1, 1, 1, capacity=3)
    with pytest.raises(InputError, match="at most 3 cached positions, found 4"):
        cache.write(0, torch.zeros(1, 1, 4, 1), torch.zeros(1, 1, 4, 1))


def test_target_with_cache_equals_target_without(target):
    ids = torch.arange(2, 20)[None]
    whole = target.features(ids)
    cache = target.new_cache(30)
    parts = torch.cat([target.features(part, cache=cache) for part in ids.split([5, 1, 8, 4], dim=1)], dim=1)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_tree_forward_equals_one_forward_a_path_and_keep_equals_a_fresh_prefill(target):
    prefix = torch.arange(2, 9)[None]
    parent = torch.tensor([0, 0, 0, 1, 1, 2, 4])
    depth = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    tokens = torch.tensor([3, 5, 7, 9, 11, 13, 15])
    above = ancestors(parent, 3)
    cache = target.new_cache(30)
    target.features(prefix, cache=cache)
    features = target.tree_features(tokens, depth, above, cache)
    for v in range(7):
        path = above[v].nonzero().flatten()
        alone = target.features(torch.cat((prefix, tokens[path][None]), dim=1))[0, -1]
        assert features[v].allclose(alone, rtol=0, atol=1e-6), (
            f"law broken: the tree forward gives node {v} another feature than a forward of its path alone"
        )
    path = above[6].nonzero().flatten()
    cache.keep(7, path)
    fresh = target.new_cache(30)
    target.features(torch.cat((prefix, tokens[path][None]), dim=1), cache=fresh)
    assert cache.length == fresh.length, "law broken: after keep() the cache holds prefix and path"
    ours, theirs = (one.kv[..., : fresh.length, :] for one in (cache, fresh))
    assert ours.allclose(theirs, rtol=0, atol=1e-6), "law broken: after keep() the cache equals a fresh prefill"
