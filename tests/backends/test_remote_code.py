"""A model's own code runs when its caller in Python or on the command line says so by name, and never otherwise."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from tiny_models import save_byte_level

import linnet
from linnet import LLM, InvalidRequestError, ModelFileError, SamplingParams

pytest.importorskip("transformers")

CODE = """
import pathlib
pathlib.Path({mark!r}).write_text("executed")
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
class OwnConfig(GPT2Config):
    model_type = "own"
class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
def generate(model, **kwargs):
    return type(model).generate(model, **kwargs)
"""


@pytest.fixture
def hostile(tmp_path):
    """(folder, mark): a model whose every file asks for code of its own; that writes the mark. model_type as given."""
    mark, folder = tmp_path / "mark", tmp_path / "model"

    def make(model_type):
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        folder.mkdir()
        save_byte_level(folder)
        torch.manual_seed(1)
        config = GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2, eos_token_id=2, bos_token_id=0)
        GPT2LMHeadModel(config).save_pretrained(folder)
        own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel", "AutoModelForSeq2SeqLM": "own.OwnModel"}
        claims = {"trust_remote_code": True, "custom_generate": "own", "auto_map": own, "_attn_implementation": "nobody/kernels"}
        edit(folder / "config.json", {**claims, "model_type": model_type, "architectures": ["OwnModel"]})
        edit(folder / "tokenizer_config.json", {**claims, "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}})
        edit(folder / "generation_config.json", claims)
        code = CODE.format(mark=str(mark))
        for name in ("own.py", "tokenizer.py", "custom_generate/generate.py", "__init__.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(code)
        return folder, mark

    return make


def edit(file, values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_an_unknown_model_type_is_refused_and_nothing_runs(hostile):
    folder, mark = hostile("own")
    with pytest.raises(ModelFileError, match=r"the folder's own code is not run.*trust_remote_code=True"):
        LLM(folder, backend="transformers")
    assert not mark.exists()


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_known_model_type_runs_by_transformers_own_code(hostile, with_tokenizer):
    folder, mark = hostile("gpt2")
    if not with_tokenizer:
        (folder / "tokenizer.json").unlink()
    with LLM(folder, backend="transformers") as llm:
        assert llm.generate([5, 6], SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True))[0].usage.completion_tokens == 3
        assert type(llm._engine._model.model).__module__.startswith("transformers.models")
        assert llm._engine._model.model.config._attn_implementation in ("sdpa", "eager")
    assert not mark.exists()


def test_the_caller_in_python_may_allow_it(hostile):
    folder, mark = hostile("own")
    with LLM(folder, backend="transformers", trust_remote_code=True, tokenizer=folder) as llm:
        assert type(llm._engine._model.model).__name__ == "OwnModel"
    assert mark.read_text() == "executed"


def test_the_command_line_may_allow_it(hostile, monkeypatch, capsys):
    from linnet.cli.main import main

    def run(*more):
        arguments = ["run", str(folder), "a linnet", "--raw", "--backend", "transformers", "--max-tokens", "3", "--json", *more]
        monkeypatch.setattr(sys, "argv", ["linnet", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()

    folder, mark = hostile("own")
    code, _, said = run()
    assert (code, mark.exists()) == (2, False)
    assert "--trust-remote-code" in said
    code, answer, _ = run("--trust-remote-code")
    assert (code, mark.exists()) == (0, True)
    assert json.loads(answer)["usage"]["completion_tokens"] == 3


def test_linnets_own_engine_has_nothing_to_trust(hostile):
    folder, mark = hostile("gpt2")
    with pytest.raises(InvalidRequestError, match="trust_remote_code is for backend='transformers'"):
        LLM(folder, trust_remote_code=True)
    values = json.loads((folder / "config.json").read_text())
    claims = ("trust_remote_code", "custom_generate")  # which it refuses, as all that it does not understand
    (folder / "config.json").write_text(json.dumps({name: value for name, value in values.items() if name not in claims}))
    with LLM(folder, threads=1) as llm:
        assert llm.spec.family == "gpt2"
    assert not mark.exists()


def test_a_server_cannot_allow_it(hostile, tmp_path, monkeypatch):
    pytest.importorskip("pydantic_settings")
    from linnet.server.settings import read_settings

    folder, _ = hostile("own")
    for content in ("trust_remote_code: true", f"models: {{own: {{path: {folder}, trust_remote_code: true}}}}"):
        config = tmp_path / "server.yaml"
        config.write_text(f"backend: transformers\n{content}\n")
        with pytest.raises(InvalidRequestError, match="trust_remote_code"):
            read_settings([] if "models" in content else [str(folder)], {}, config)
    monkeypatch.setenv("LINNET_TRUST_REMOTE_CODE", "true")
    monkeypatch.setenv("LINNET_BACKEND", "transformers")
    settings = read_settings([str(folder)], {})
    assert settings.models[0].options == {"backend": "transformers", "max_queue": 256}


def test_no_request_can_allow_it():
    with pytest.raises(InvalidRequestError, match="there is no option 'trust_remote_code'"):
        SamplingParams(trust_remote_code=True)
    assert linnet.LLM.__init__.__kwdefaults__["trust_remote_code"] is False


def test_pipes_and_absurd_sizes_are_refused_before_transformers_sees_them(hostile):
    import os

    folder, _ = hostile("gpt2")
    edit(folder / "config.json", {"n_layer": 10**9})
    with pytest.raises(ModelFileError, match="n_layer is 1000000000; the most is 4096"):
        LLM(folder, backend="transformers")
    edit(folder / "config.json", {"n_layer": 1, "n_embd": 10**7})
    with pytest.raises(linnet.LinnetError):
        LLM(folder, backend="transformers")
    shutil.rmtree(folder / "custom_generate")
    os.mkfifo(folder / "extra.json")
    with pytest.raises(ModelFileError, match="not a regular file"):
        LLM(folder, backend="transformers")
