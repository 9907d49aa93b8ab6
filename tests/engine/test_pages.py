"""Page planning and the pool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.engine import page_plan
from linnet.engine.page_plan import group_bytes, layer_groups, page_bytes, plan_pages, total_bytes
from linnet.engine.pages import PageGroup, pages_for
from linnet.errors import OutOfMemoryError
from linnet.machine_memory import available_memory
from linnet.ops.base import KV_DTYPES, PAGE_SIZE
from linnet.ops.native import NativeOps

LAYER = Layer(Attention(4, 2, 8, (), 1.0), Mlp(8, "silu"), Norm(1e-5), Norm(1e-5))
SPEC = ModelSpec("test", 10, 32, 1000, (LAYER,) * 3, Norm(1e-5), True)
EACH = 3 * 2 * (8 + 16) * PAGE_SIZE * 2  # layers, heads, keys and padded values, positions, bytes of f16


def test_pool_gives_each_page_once_and_reuses_the_last_freed() -> None:
    pool = PageGroup(5)
    a, b = pool.allocate(2), pool.allocate(3)
    assert sorted(a + b) == [0, 1, 2, 3, 4]
    assert pool.free_count == 0
    pool.free(a)
    assert set(pool.allocate(2)) == set(a)


def test_sizes() -> None:
    assert page_bytes(SPEC, "f16") == EACH
    assert page_bytes(SPEC, "bf16") == EACH
    assert page_bytes(SPEC, "f32") == 2 * EACH
    assert [pages_for(n) for n in (1, PAGE_SIZE, PAGE_SIZE + 1)] == [1, 1, 2]


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(
    ("head_dim", "value_dim"), [(2, None), (16, None), (20, None), (33, None), (64, None), (24, 40), (192, 128), (8, 1)]
)
def test_a_page_is_as_large_as_the_core_makes_it(kv_dtype: str, head_dim: int, value_dim: int | None) -> None:
    wide = Layer(Attention(4, 2, head_dim, (), 1.0, value_dim=value_dim), Mlp(8, "silu"), Norm(1e-5), Norm(1e-5))
    spec = ModelSpec("test", 10, 32, 1000, (wide, LAYER, wide), Norm(1e-5), True)
    ops = NativeOps(threads=1)
    ops.allocate_cache(spec, [7], kv_dtype)
    assert ops.cache is not None
    assert page_bytes(spec, kv_dtype) * 7 == ops.cache.bytes
    ops.free_cache()


def test_layers_that_read_the_keys_and_values_of_others_take_no_pages() -> None:
    near, far = Attention(4, 2, 16, (), 1.0, window=40), Attention(4, 1, 32, (), 1.0)
    attentions = (near, far, replace(near, kv_layer=0), replace(far, kv_layer=1), replace(far, kv_layer=1))
    spec = replace(SPEC, layers=tuple(replace(LAYER, mixer=attention) for attention in attentions))
    alone = replace(spec, layers=spec.layers[:2])
    assert layer_groups(spec).windows == layer_groups(alone).windows == (None, 40)
    assert layer_groups(spec).of_layer == (1, 0, 1, 0, 0)
    for kv_dtype in KV_DTYPES:
        assert group_bytes(spec, kv_dtype) == group_bytes(alone, kv_dtype)
        assert page_bytes(spec, kv_dtype) == page_bytes(alone, kv_dtype)
        ops = NativeOps(threads=1)
        ops.allocate_cache(spec, [7, 5], kv_dtype, layer_groups(spec).of_layer)
        assert ops.cache is not None
        assert total_bytes([7, 5], group_bytes(spec, kv_dtype)) == ops.cache.bytes
        ops.free_cache()


def test_q8_0_pages_hold_a_scale_for_every_block_of_a_head() -> None:
    layer = Layer(Attention(4, 2, 40, (), 1.0, value_dim=32), Mlp(8, "silu"), Norm(1e-5), Norm(1e-5))
    spec = ModelSpec("test", 10, 32, 1000, (layer,), Norm(1e-5), True)
    assert page_bytes(spec, "q8_0") == 2 * PAGE_SIZE * (40 + 2 * 2 + 32 + 2)  # two blocks of keys, one of values


def test_plan_is_what_the_batch_needs_capped_by_memory() -> None:
    assert plan_pages(SPEC, "f16", None, 4, 2**40) == ([4 * 32], 1000)
    assert plan_pages(SPEC, "f16", 64, 4, 2**40) == ([8], 64)
    assert plan_pages(SPEC, "f16", 64, 4, 3 * EACH) == ([3], 64)


def test_a_context_that_was_asked_for_is_never_cut() -> None:
    with pytest.raises(OutOfMemoryError, match=f"takes {2 * EACH} bytes and {2 * EACH - 1} are allowed by kv_memory"):
        plan_pages(SPEC, "f16", 64, 4, 2 * EACH - 1)
    with pytest.raises(OutOfMemoryError, match="allowed by kv_memory"):
        plan_pages(SPEC, "f16", None, 4, EACH - 1)


def test_the_models_context_is_cut_to_memory_aloud(caplog: pytest.LogCaptureFixture) -> None:
    assert plan_pages(SPEC, "f16", None, 4, 3 * EACH) == ([3], 3 * PAGE_SIZE)
    assert f"context is {3 * PAGE_SIZE} of the model's 1000" in caplog.text


def test_a_share_of_available_memory_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_plan, "available_memory", lambda: 10 * EACH)
    assert plan_pages(SPEC, "f16", 64, 4, None) == ([4], 64)


def test_available_memory_is_plausible() -> None:
    assert 2**24 < available_memory() < 2**50


def test_cached_files_of_a_control_group_are_available(tmp_path: Path) -> None:
    """A container that has just read its model has it in the page cache, which counts as used."""
    limit, group = 2**23, tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 65536 kB\n")
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{limit - 1000}\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 4000000\nactive_file 2000000\nslab 9\n")
    assert available_memory(tmp_path) == 6001000
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 2**26
