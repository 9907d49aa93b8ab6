"""`linnet chat`: on a pseudo-terminal, as people use it, and from a pipe, as scripts do."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from linnet import LLM, SamplingParams
from linnet.cli.chat import _Session
from linnet.cli.conversation import Conversation
from linnet.cli.options import sampling_group

pytest.importorskip("pty", reason="pseudo-terminals are for Unix")
from terminal_session import TerminalSession

QUESTION = "What is 17 + 25?"


@pytest.fixture
def chat(command, env):
    """An open chat with the built-in model, ready for its first line."""
    with TerminalSession([*command, "chat", "tiny"], env) as session:
        session.expect("Ctrl-D leaves")
        session.expect_editor()
        yield session


def say(session: TerminalSession, text: str, answer: str) -> str:
    session.send(text + "\r")
    shown = session.expect(answer)
    session.expect_editor()
    return shown


def saved(session: TerminalSession, path: Path) -> dict:
    say(session, f"/save {path}", "messages saved")
    return json.loads(path.read_text("utf-8"))


def test_a_conversation(chat, tmp_path: Path):
    say(chat, "My name is Quinn.", r"meet you.*\n")
    say(chat, "What is my name?", r"name is Quinn\.\r\n")
    first = saved(chat, tmp_path / "first.json")
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"] * 2
    with LLM("tiny") as llm:
        for end in (1, 3):
            expected = llm.chat(first["messages"][:end], SamplingParams(temperature=0.0)).text
            assert first["messages"][end]["content"] == expected

    say(chat, "/system Be brief.", "/system Be brief")
    say(chat, "/reset", "starts over")
    assert saved(chat, tmp_path / "reset.json")["messages"] == [{"role": "system", "content": "Be brief."}]
    say(chat, f"/load {tmp_path / 'first.json'}", "4 messages loaded")
    assert saved(chat, tmp_path / "again.json") == first
    chat.send("\x04")
    assert chat.wait() == 0


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(chat, tmp_path: Path):
    say(chat, "/params ignore_eos=true", "ignore_eos=true")
    chat.send("hello\r")
    chat.expect(r"\n\S+ \S+ \S+ \S+ ")
    chat.send("\x03\x03")  # an impatient user
    chat.expect("stopped")
    chat.expect_editor()
    messages = saved(chat, tmp_path / "stopped.json")["messages"]
    with LLM("tiny") as llm:
        whole = llm.chat(messages[:1], SamplingParams(temperature=0.0, ignore_eos=True)).text
    assert 0 < len(messages[1]["content"]) < len(whole) / 2
    assert whole.startswith(messages[1]["content"])
    say(chat, "/reset", "starts over")
    say(chat, "/params ignore_eos=", "ignore_eos=")
    say(chat, QUESTION, "17 \\+ 25 = 42")  # the program lives, and so does the engine


def test_ctrl_c_clears_the_line_and_pasted_lines_are_one_message(chat, tmp_path: Path):
    chat.send("never sent\x03")
    say(chat, "/params max_tokens=3", "max_tokens=3")
    chat.send("\x1b[200~line one\nline two\x1b[201~")
    say(chat, "", "cut off here")
    chat.send("third\x1b\rfourth")  # Alt-Enter
    say(chat, "", "cut off here")
    contents = [message["content"] for message in saved(chat, tmp_path / "c.json")["messages"] if message["role"] == "user"]
    assert contents == ["line one\nline two", "third\nfourth"]


def test_params(chat, tmp_path: Path):
    say(chat, '/params temperature=0.5 seed=7 stop="the end" logit_bias=\'{"5": 1.5}\'', r"1\.5")
    shown = say(chat, "/params", "min_tokens = 0")
    assert "* temperature = 0.5" in shown
    assert "  top_p = 1.0" in shown
    for wrong, named in (
        ("temperature=-1 seed=8", "temperature is -1"),
        ("seed=8 temperature=nan", "temperature is 'nan'"),
        ("warmth=1", "no parameter 'warmth'"),
        ("n=2", "no parameter 'n'"),
        ("temperature", "not name=value"),
        ('stop="open', "No closing quotation"),
    ):
        say(chat, f"/params {wrong}", f"linnet: error: .*{named}")
    params = saved(chat, tmp_path / "p.json")["params"]
    assert params == {"temperature": 0.5, "seed": 7, "stop": ["the end"], "logit_bias": {"5": 1.5}}
    say(chat, "/params temperature= seed=", "seed=")
    say(chat, f"/load {tmp_path / 'p.json'}", "0 messages loaded")
    assert saved(chat, tmp_path / "q.json")["params"] == params


def test_mistakes_leave_the_conversation_alone(chat, tmp_path: Path):
    say(chat, QUESTION, "= 42")
    before = saved(chat, tmp_path / "before.json")
    bad = {
        "json": "{",
        "list": "[]",
        "lacking": '{"params": {}}',
        "role": '{"messages": [{"role": 1, "content": "x"}]}',
        "content": '{"messages": [{"role": "user"}]}',
        "surrogate": '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        "params": '{"messages": [], "params": {"temperature": "warm"}}',
        "unknown": '{"messages": [], "params": {"warmth": 1}}',
        "deep": "[" * 100_000,
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
        say(chat, f"/load {tmp_path / name}", f"linnet: error: \\S*/{name}")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for command in (
        f"/load {tmp_path / 'bytes'}",
        "/load",
        "/load nowhere",
        f"/load {tmp_path}",
        "/save",
        "/save no/where",
        "/dance",
        "/reset x",
    ):
        say(chat, command, "linnet: error: ")
    say(chat, "word " * 1500, r"linnet: error: the prompt has \d+ tokens and the context holds 1024.*/reset")
    assert saved(chat, tmp_path / "after.json") == before


def test_a_bug_does_not_end_a_conversation(monkeypatch, capsys):
    class Broken:
        def chat(self, messages, params, stream):
            raise RuntimeError("a bug")

    turns = iter(["hello", "/params"])

    def read() -> str:
        try:
            return next(turns)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("linnet.cli.chat.turn_reader", lambda commands: read)
    conversation = Conversation(sampling_group(), {}, {})
    _Session(Broken(), conversation).run()
    errors = capsys.readouterr().err
    assert "linnet: error: RuntimeError: a bug" in errors
    assert "temperature = 0.0" in errors
    assert conversation.messages == []


def test_history_is_kept_for_the_user_alone(chat, env, command):
    say(chat, QUESTION, "= 42")
    chat.send("/exit\r")
    assert chat.wait() == 0
    history = Path(env["XDG_STATE_HOME"]) / "linnet" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    with TerminalSession([*command, "chat", "tiny"], env) as later:
        later.expect("Ctrl-D leaves")
        later.expect_editor()
        later.send("\x1b[A\x1b[A\r")  # twice up: past /exit, to the question
        later.expect("= 42")


def test_colours_on_a_terminal_but_not_against_the_users_wish(command, env):
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with TerminalSession([*command, "run", "nowhere", "hi"], {**env, **extra}) as session:
            assert session.wait() == 2
            assert ("\x1b[31m" in session.seen) is coloured
            assert ("\x1b" in session.seen) is coloured


def test_a_terminal_never_gets_control_characters_from_a_model(command, env, tiny_copy: Path):
    template = tiny_copy / "chat_template.jinja"
    template.write_text("{{ raise_exception('\x1b]0;owned\x07') }}")
    with TerminalSession([*command, "run", str(tiny_copy), "hi"], {**env, "NO_COLOR": "1"}) as session:
        assert session.wait() == 2
        assert "owned" in session.seen
        assert "\x1b" not in session.seen


def test_from_a_pipe_every_line_is_a_turn(linnet, tmp_path: Path):
    lines = ["My name is Quinn.", "", "What is my name?", "/save out.json", "/reset", QUESTION]
    done = linnet("chat", "tiny", "--system", "Be kind.", stdin="\n".join(lines))
    assert done.returncode == 0
    answers = done.stdout.splitlines()
    assert len(answers) == 3
    assert answers[1].endswith("Quinn.")
    assert answers[2].endswith("17 + 25 = 42")
    messages = json.loads((tmp_path / "out.json").read_text())["messages"]
    assert [message["content"] for message in messages] == ["Be kind.", lines[0], answers[0], lines[2], answers[1]]


@pytest.mark.parametrize(
    ("stdin", "named"), [("/dance\nhello\n", "/dance"), (b"caf\xe9\n", "UTF-8"), ("word " * 1500, "the context holds 1024")]
)
def test_from_a_pipe_the_first_error_ends_it(linnet, stdin, named):
    done = linnet("chat", "tiny", stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("linnet: error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


def test_no_chat_template_is_an_error_with_its_remedy(linnet, tiny_copy: Path):
    template = (tiny_copy / "chat_template.jinja").rename(tiny_copy.parent / "template.jinja")
    done = linnet("chat", tiny_copy, stdin="hello\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--chat-template FILE" in done.stderr
    assert linnet("chat", tiny_copy, "--chat-template", template, stdin=QUESTION).stdout.endswith("= 42\n")
