"""Types without kernels: converted as the `gguf` package would, announced, and refused where that cannot be."""

import logging
import sys
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from test_gguf_reader import build, info

from linnet.arch.config import Config
from linnet.arch.registry import build as build_spec
from linnet.errors import MissingDependencyError, ModelFileError, UnsupportedModelError
from linnet.load.assemble import assemble, plan
from linnet.load.convert import check_decoder, convert, loaded_as
from linnet.load.dequantize import dequantize
from linnet.load.encode import encode
from linnet.load.gguf import read_gguf
from linnet.tensors import F32, Q4_0, Q8_0, TYPES, RawTensor, TensorType

SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
CONFIG = {
    "model_type": "llama",
    "vocab_size": 40,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    **SIZES,
}


def as_ours(quant: GGMLQuantizationType) -> TensorType:
    return TensorType(quant.name.lower(), int(quant), *GGML_QUANT_SIZES[quant])


def decodes(quant: GGMLQuantizationType) -> bool:
    block, size = GGML_QUANT_SIZES[quant]
    try:
        gguf.quants.dequantize(np.zeros((1, size), np.uint8), quant)
    except NotImplementedError:
        return False
    return block > 1


CONVERTED = [quant for quant in GGML_QUANT_SIZES if decodes(quant) and quant.name.lower() not in TYPES]
REFUSED = [quant for quant in GGML_QUANT_SIZES if not decodes(quant) and quant.name.lower() not in TYPES]


def random_blocks(quant: GGMLQuantizationType, count: int) -> np.ndarray:
    """Any bytes but for float16 scales, of which those that are not finite are left out."""
    size = GGML_QUANT_SIZES[quant][1]
    found = np.random.default_rng(int(quant)).integers(0, 256, (4 * count, size), np.uint8)
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(found, quant)
    return found[np.abs(values).max(axis=1) < 1e4][:count]  # NaN is not


class Recorder:
    """An op set that keeps what it is given."""

    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> tuple[RawTensor, TensorType | None]:
        return raw, target

    def vector(self, raw: RawTensor) -> RawTensor:
        return raw

    def owns(self, matrix: object) -> bool:
        return False


class Tensors:
    """A source whose every matrix is stored in one type; blocks of zeros."""

    where = "the file"

    def __init__(self, type: TensorType) -> None:
        self.stored = type
        self.spec, self.table = build_spec(Config(CONFIG, "config"))
        shapes = {"model.embed_tokens.weight": (40, 256), "model.norm.weight": (256,)}
        for layer in range(2):
            parts = {"self_attn.q_proj": (256, 256), "self_attn.k_proj": (128, 256), "self_attn.v_proj": (128, 256)}
            parts |= {"self_attn.o_proj": (256, 256), "mlp.gate_proj": (512, 256), "mlp.up_proj": (512, 256), "mlp.down_proj": (256, 512)}
            parts |= {"input_layernorm": (256,), "post_attention_layernorm": (256,)}
            shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
        self.shapes = shapes
        self.released: list[str] = []

    def names(self) -> list[str]:
        return list(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def type(self, name: str) -> TensorType:
        return F32 if len(self.shapes[name]) == 1 else self.stored

    def read(self, name: str) -> RawTensor:
        type = self.type(name)
        return RawTensor(name, self.shapes[name], type, np.zeros(type.nbytes(self.shapes[name]), np.uint8))

    def release(self, name: str) -> None:
        self.released.append(name)

    def close(self) -> None:
        pass


def test_every_type_that_gguf_decodes_runs():
    assert {quant.name for quant in CONVERTED} >= {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0"}
    for quant in CONVERTED:
        assert loaded_as(as_ours(quant)) == Q8_0
        check_decoder(as_ours(quant), "here")
    for quant in REFUSED:
        assert loaded_as(as_ours(quant)) == as_ours(quant)
    for type in TYPES.values():
        assert loaded_as(type) == type


@pytest.mark.parametrize("target", [Q8_0, Q4_0, F32], ids=lambda t: t.name)
@pytest.mark.parametrize("quant", CONVERTED, ids=lambda q: q.name)
def test_values_are_those_of_the_gguf_package_as_encoders_store_them(quant, target, monkeypatch):
    monkeypatch.setattr("linnet.load.convert._PIECE", 512)  # many pieces, the last not whole
    blocks = random_blocks(quant, 21)
    assert len(blocks) == 21
    raw = RawTensor("w", (3, 7 * GGML_QUANT_SIZES[quant][0]), as_ours(quant), blocks.reshape(-1))
    values = gguf.quants.dequantize(blocks, quant).reshape(raw.shape)
    found = convert(raw, target)
    assert (found.name, found.shape, found.type) == ("w", raw.shape, target)
    np.testing.assert_array_equal(found.data, encode(values, target).reshape(-1))
    plain = GGMLQuantizationType(target.gguf_id)
    rounded = gguf.quants.dequantize(gguf.quants.quantize(values, plain), plain)
    float16 = 2.0**-23 * np.square(values).mean()  # the rounding of scales, which is all there is where values are ternary
    assert np.square(dequantize(found) - values).mean() <= 1.001 * np.square(rounded - values).mean() + float16


def test_blocks_that_decode_to_nonsense_are_refused_where_it_is_not_finite():
    for quant in CONVERTED:
        block, size = GGML_QUANT_SIZES[quant]
        for byte in (0x00, 0x7F, 0x80, 0xFF):
            raw = RawTensor("w", (2, block), as_ours(quant), np.full(2 * size, byte, np.uint8))
            with np.errstate(all="ignore"):
                finite = np.isfinite(gguf.quants.dequantize(raw.data, quant)).all()
            if finite:
                assert convert(raw, Q8_0).type == Q8_0
            else:
                with pytest.raises(ModelFileError, match="w as q8_0: row 0 holds a value that is not finite"):
                    convert(raw, Q8_0)


def test_memory_is_bounded(monkeypatch):
    """Sixteen million values, of which little more than the result's bytes are held at a time."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    quant = GGMLQuantizationType.IQ3_S
    raw = RawTensor("w", (4096, 4096), as_ours(quant), np.zeros(4096 * 16 * 110, np.uint8))
    convert(RawTensor("w", (1, 256), as_ours(quant), raw.data[:110]), Q8_0)  # loads the package and its tables
    tracemalloc.start()
    try:
        convert(raw, Q8_0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * Q8_0.nbytes(raw.shape)


def test_assembling_converts_and_says_so_once(caplog):
    source = Tensors(as_ours(GGMLQuantizationType.IQ2_S))
    with caplog.at_level(logging.WARNING, "linnet.load"):
        weights = assemble(Recorder(), source.spec, source.table, source)
    assert [record.getMessage() for record in caplog.records] == [
        "the file: 15 tensors are stored as iq2_s, which has no kernels; converted to q8_0"
    ]
    raw, target = weights.layers[1].mlp.down.matrix
    assert (raw.type, raw.shape, target) == (Q8_0, (256, 512), None)
    assert sorted(source.released) == sorted(source.names())
    raw, target = assemble(Recorder(), source.spec, source.table, source, Q4_0).layers[0].attention.query.matrix
    assert (raw.type, target) == (Q4_0, None)


@pytest.mark.parametrize("quant", REFUSED, ids=lambda q: q.name)
def test_types_that_nothing_decodes_are_refused_by_name(quant):
    source = Tensors(as_ours(quant))
    with pytest.raises(UnsupportedModelError, match=rf"the file: .*k_proj\.weight \({quant.name.lower()}\)"):
        plan(source.spec, source.table, source)


def test_vectors_are_not_converted():
    source = Tensors(F32)
    source.type = lambda name: as_ours(GGMLQuantizationType.IQ2_S) if name == "model.norm.weight" else F32
    with pytest.raises(UnsupportedModelError, match=r"model\.norm\.weight \(iq2_s\)$"):
        plan(source.spec, source.table, source)


def test_without_the_gguf_package_the_command_is_named_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    source = Tensors(as_ours(GGMLQuantizationType.IQ1_M))
    with pytest.raises(MissingDependencyError, match=r'the file: iq1_m tensors need .*pip install "linnet\[gguf\]"'):
        plan(source.spec, source.table, source)
    plan(source.spec, source.table, Tensors(TYPES["iq4_xs"]))


def test_a_gguf_package_that_does_not_know_the_type_is_told_apart():
    with pytest.raises(UnsupportedModelError, match="too old for q9_z tensors"):
        check_decoder(TensorType("q9_z", 999, 32, 8), "the file")


def test_reads_through_a_mapped_file_that_is_not_aligned(tmp_path):
    quant = GGMLQuantizationType.IQ3_XXS
    blocks = random_blocks(quant, 3)
    path = tmp_path / "m.gguf"
    path.write_bytes(build(infos=[info(shape=(256, 3), type_id=int(quant))], data=blocks.tobytes()))
    raw = read_gguf(path).read("w")
    odd = RawTensor("w", raw.shape, raw.type, np.concatenate((np.zeros(1, np.uint8), raw.data))[1:])
    np.testing.assert_array_equal(convert(raw, F32).data, convert(odd, F32).data)
