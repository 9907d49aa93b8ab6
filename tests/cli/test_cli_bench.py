"""`linnet bench`: what is printed, where, and what is refused before anything runs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from terminal_session import TerminalSession

TINY = Path(__file__).parents[2] / "models" / "tiny"
SMALL = ("--input-len", "16", "--output-len", "4", "--repeat", "1")


def test_json_is_a_list_of_cases_and_nothing_else(linnet):
    done = linnet("bench", "tiny", "--json", "--batch-size", "2,1", "--input-len", "[40, 8]", "--output-len", "4", "--repeat", "1")
    assert (done.returncode, done.stderr) == (0, "")
    records = json.loads(done.stdout)
    assert [(r["batch_size"], r["input_len"], r["output_len"]) for r in records] == [(1, 8, 4), (1, 40, 4), (2, 8, 4), (2, 40, 4)]
    assert [r["kv_cache_bytes"] for r in records] == sorted(r["kv_cache_bytes"] for r in records)
    for record in records:
        assert record["error"] is None
        assert record["generated_tokens_per_s"] > 0
        assert record["peak_memory_bytes"] > 2**20


def test_a_table_and_a_chart(linnet, tmp_path):
    done = linnet("bench", "tiny", *SMALL, "--batch-size", "1,2", "--weights", "q4_0", "--plot", "chart.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    rows = re.findall(r"^ +([12]) +16 +4 +0\.\d\d .*%", done.stdout, re.MULTILINE)
    assert rows == ["1", "2"]
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_what_pytorch_runs_is_measured_against_what_pytorch_does(linnet):
    done = linnet("bench", "tiny", *SMALL, "--ops", "torch", "--dtype", "bf16", "--weights", "q4_0")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ +1 +16 +4 +0\.\d\d .*%.*%", done.stdout, re.MULTILINE)
    assert re.search(r"GB/s that cpu read and wrote in a copy in this run", done.stdout)
    assert re.search(r"of a product of large matrices \(cpu in bfloat16\)", done.stdout)


def test_skip_load_needs_no_weights(linnet, tmp_path):
    shutil.copy(TINY / "config.json", tmp_path)
    done = linnet("bench", tmp_path, "--skip-load", *SMALL, "--weights", "q8_0", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)) == 1
    assert linnet("bench", tmp_path, *SMALL).returncode == 2


@pytest.fixture
def wide(tmp_path):
    """A model whose keys and values take 4 MB a token, and its weights 67 MB."""
    config = json.loads((TINY / "config.json").read_text())
    config |= {"hidden_size": 8, "num_attention_heads": 256, "num_key_value_heads": 256, "head_dim": 1024, "num_hidden_layers": 4}
    folder = tmp_path / "wide"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2**24}))
    return folder


def test_a_case_that_does_not_fit_is_reported_and_the_others_run(linnet, wide):
    flags = ("bench", wide, "--skip-load", "--input-len", f"{2**23},1", "--output-len", "1", "--repeat", "1")
    done = linnet(*flags, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    small, large = json.loads(done.stdout)
    assert (small["input_len"], small["error"]) == (1, None)
    assert large["prompt_tokens_per_s"] is None
    assert re.fullmatch(rf"its KV cache takes {large['kv_cache_bytes']} bytes and \d+ are available for it", large["error"])
    shown = linnet(*flags).stdout
    assert f"not run: batch 1, input {2**23}, output 1: its KV cache takes {large['kv_cache_bytes']} bytes" in shown


def test_where_nothing_fits_that_is_an_error(linnet, wide):
    expect_refusal(linnet("bench", wide, "--skip-load", "--input-len", str(2**23), "--json"), "bytes and")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--batch-size", "1,,2"), "--batch-size '1,,2'"),
        (("--input-len", "[1"), "--input-len '[1'"),
        (("--output-len", "0"), "--output-len '0'"),
        (("--threads", "0"), "threads is 0"),
        (("--threads", "1000"), "threads is 1000 and this process may run on"),
        (("--device", "cuda"), "device 'cuda' is GPUs of NVIDIA"),
        (("--device", "cuda:x"), "device 'cuda:x' is not one of cpu, cuda"),
        (("--dtype", "bf16"), "dtype is for ops='torch'"),
        (("--tp", "3"), "tp is 3, and layer 0 of the model cannot be divided so"),
        (("--repeat", "0"), "--repeat"),
        (("--input-len", "1020", "--output-len", "5"), "make 1025 tokens, and the model was made for 1024"),
        (("--plot", "nowhere/chart.png"), "--plot nowhere/chart.png: cannot be written"),
        (("--plot", "chart.jpg"), "ends in .png"),
        (("--kv-dtype", "q2_k"), "kv_dtype"),
    ],
)
def test_refusals_before_anything_runs(linnet_here, tmp_path, flags, named):
    expect_refusal(linnet_here("bench", "tiny", *flags), named)
    assert not list(tmp_path.iterdir())


def test_a_chart_without_matplotlib_names_the_remedy(linnet, env, tmp_path):
    (tmp_path / "stub" / "matplotlib").mkdir(parents=True)
    (tmp_path / "stub" / "matplotlib" / "__init__.py").write_text("raise ImportError('not here')")
    env["PYTHONPATH"] = f"{tmp_path / 'stub'}:{env.get('PYTHONPATH', '')}"
    expect_refusal(linnet("bench", "tiny", "--plot", "chart.png"), 'pip install "linnet[plot]"')
    assert not (tmp_path / "chart.png").exists()


def test_on_a_terminal_a_bar_runs_and_goes(command, env):
    with TerminalSession([*command, "bench", "tiny", *SMALL], env) as terminal:
        assert terminal.wait() == 0
        assert "running" in terminal.seen
        assert "100%" in terminal.seen
        last = terminal.seen.rsplit("\x1b[2K", 1)[1]  # what came after the bar was wiped
        assert "tokens/s" in last
        assert "━" not in last


def test_ctrl_c_keeps_what_was_measured(command, env):
    sizes = ("--batch-size", "1,256", "--input-len", "900", "--output-len", "100", "--repeat", "1")
    process = subprocess.Popen([*command, "bench", "tiny", "--json", *sizes], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    first = process.stdout.read1()  # the second case, 256 times the first, has begun
    process.send_signal(signal.SIGINT)
    records = json.loads(first + process.stdout.read())
    assert [record["batch_size"] for record in records] == [1]
    assert process.stderr.read() == b""
    assert process.wait() == 130


def test_json_stays_on_standard_output_beside_a_bar(command, env, tmp_path):
    script = (
        f"import subprocess, sys; sys.exit(subprocess.call({[*command, 'bench', 'tiny', *SMALL, '--json']!r}, stdout=open('out', 'w')))"
    )
    env["LINNET_TEST_FOLDER"] = str(tmp_path)
    with TerminalSession([sys.executable, "-c", f"import os; os.chdir(os.environ['LINNET_TEST_FOLDER']); {script}"], env) as terminal:
        assert terminal.wait() == 0
        assert "running" in terminal.seen
        assert "batch_size" not in terminal.seen
    assert len(json.loads((tmp_path / "out").read_text())) == 1


def expect_refusal(done, named):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("linnet: error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
