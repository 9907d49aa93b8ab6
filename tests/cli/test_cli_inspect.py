"""`linnet inspect`: what is printed, and what is refused."""

from __future__ import annotations

import json
import re

import gguf
import pytest

from linnet import inspect_model


def test_a_page_on_standard_output(linnet):
    done = linnet("inspect", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for line in (
        r"tiny: safetensors, 6\.98 MB",
        r"llama: 4 layers, hidden size 256, context 1024",
        r"  attention +8 query heads and 4 KV heads of 32; scores times 1/√32; sees all that came before",
        r"3,488,000 parameters",
        r"  feed-forward +2,359,296 +67\.6%",
        r"  f16 +38 +3,488,000 +6\.98 MB +16",
        r"  model\.layers\.\{0 to 3\}\.mlp\.up_proj\.weight +\[768, 256\] +f16 +393 kB +4 +feed-forward",
        r"  kind +byte-level BPE \(tokenizer\.json\)",
        r"  ends an answer +'<\|end\|>' \(4\)",
        r"chat template 'default', 717 characters in 16 lines",
        r"  f16 +1024 +2\.1 MB \(14\.9 MB\) +8\.39 MB \(21\.2 MB\) +33\.6 MB \(46\.4 MB\)",
    ):
        assert re.search(rf"^{line} *$", done.stdout, re.MULTILINE), line


def test_json_is_the_report(linnet):
    done = linnet("inspect", "tiny", "--json", "--context", "64,1024", "--batch-size", "[2]", "--weights", "q8_0")
    assert (done.returncode, done.stderr) == (0, "")
    expected = inspect_model("tiny", weights="q8_0", contexts=(64, 1024), batch_sizes=(2,)).record()
    assert json.loads(done.stdout) == json.loads(json.dumps(expected))


def test_only_tensors_that_match(linnet):
    listed = linnet("inspect", "tiny", "--tensors", "*.[12].*q_proj*").stdout
    assert re.findall(r"^  (\S+) +\[256, 256\] +f16 +131072 +attention *$", listed, re.MULTILINE) == [
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.2.self_attn.q_proj.weight",
    ]
    assert listed.splitlines()[-1] == "2 tensors, 262 kB"
    record = json.loads(linnet("inspect", "tiny", "--tensors", "*norm*", "--json").stdout)
    assert [tensor["part"] for tensor in record["tensors"]] == ["norms"] * 9
    assert record["parameters"]["total"] == 3_488_000


def test_names_from_a_file_reach_no_terminal_as_controls(linnet, tiny_copy):
    config = json.loads((tiny_copy / "tokenizer_config.json").read_text())
    (tiny_copy / "chat_template.jinja").write_text("\x1b[31mred\x07 {{ messages }}")
    (tiny_copy / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": None}))
    done = linnet("inspect", tiny_copy)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\ufffd[31mred\ufffd {{ messages }}" in done.stdout


@pytest.fixture
def vocabulary(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("missing.gguf",), "no such file or folder"),
        (("vocabulary.gguf",), "vocabulary.gguf: a vocabulary without tensors"),
        (("tiny", "--tensors", "*", "--context", "64"), "--context is for the plan of memory, and --tensors lists tensors alone"),
        (("tiny", "--tensors", "*", "--batch-size", "2"), "--batch-size is for the plan of memory"),
        (("tiny", "--tensors", "*", "--weights", "q4_0"), "--weights is for the plan of memory"),
        (("tiny", "--tensors", "blk.*"), "no tensor is called 'blk.*'; there are 38, such as model.embed_tokens.weight"),
        (("tiny", "--context", "0"), "--context '0'"),
        (("tiny", "--context", "1025"), "context is 1025 and the model was made for 1024"),
        (("tiny", "--batch-size", "1,x"), "--batch-size '1,x'"),
        (("tiny", "--weights", "q9"), "weights is 'q9'"),
        ((), "Missing argument 'MODEL'"),
    ],
)
def test_refusals_are_one_line(linnet_here, vocabulary, arguments, named):
    done = linnet_here("inspect", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
