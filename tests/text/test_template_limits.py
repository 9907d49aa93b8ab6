"""Templates made to hurt: an error of ours, soon, in bounded memory, and the next template renders as ever."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from text_inputs import SHARED

from linnet.errors import ChatTemplateError, HostileTemplateError, ModelFileError
from linnet.text import chat_template, template_renderer

CONVERSATION = chat_template.Conversation([{"role": "user", "content": "hello"}])
DOUBLE = "{% set ns = namespace(x=X) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    DOUBLE.replace("X", "[1]").replace("STEP", "[ns.x, ns.x]") + "{{ ns.x }}",
    DOUBLE.replace("X", "[1]").replace("STEP", "[ns.x, ns.x]") + "{{ ns.x | tojson }}",
    DOUBLE.replace("X", "[1]").replace("STEP", "[ns.x, ns.x]") + "{{ ns.x == [ns.x] }}{{ ns.x | string }}",
    DOUBLE.replace("X", "10").replace("STEP", "ns.x * ns.x"),
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ lipsum(1000000) }}",
]
HUGE = [
    "{{ 'a' * 10**10 }}",
    "{{ ['a'] * 10**10 }}",
    DOUBLE.replace("X", "'a'").replace("STEP", "ns.x ~ ns.x") + "{{ ns.x }}",
    DOUBLE.replace("X", "'a'").replace("STEP", "ns.x + ns.x") + "{{ ns.x }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ 'a' | center(10**10) }}{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ ('a\n' * 1000) | indent(10**8) }}",
    "{{ 'x' | replace('', 'y' * 10**6) | replace('', 'z' * 10**6) }}",
    "{{ ('y' * 10**6).join('z' * 10**6) }}",
    "{{ [1] | batch(10**10, 0) | list }}",
    "{{ [[[[1]]]] | tojson(indent=10**9) }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{% for i in range(99999) %}{{ 'aaaaaaaaaa' * 100 }}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{{" + "(" * 100_000 + "1",
    "{% if 1 %}" * 100_000,
    "{{ 1" + "+1" * 100_000 + " }}",
]
REACHING = [
    "{{ ''.__class__ }}",
    "{{ '' | attr('__class__') }}",
    "{{ ''['__class__'] }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{0.__class__}'.format_map({'0': 1}) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'x': 1}) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ namespace.__init__ }}",
    "{{ self.__init__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__init__.__globals__ }}",
    "{% for x in range(999999999) %}{% endfor %}",
]
WRONG = ["{% if %}", "{% for x in y %}", "{% for x in range(10**12) %}{% endfor %}"]
FAILING = [
    "{{ raise_exception('only <users> here') }}",
    "{{ messages[0].content + 1 }}",
    "{{ 1 / 0 }}",
    "{{ unknown_function() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", [*ENDLESS, *HUGE, *REACHING, *WRONG, *FAILING], ids=lambda template: template[:40])
def test_a_template_that_attacks_or_fails_is_an_error_of_ours(template: str) -> None:
    """And the model's fault where it is wrong by itself. The renderer's high-water mark stays within its bounds."""
    with pytest.raises(ChatTemplateError) as caught:
        chat_template.render(template, CONVERSATION, True, {}, "the chat template of model.gguf")
    if template in (*ENDLESS, *HUGE, *WRONG):
        assert isinstance(caught.value, HostileTemplateError)
        assert isinstance(caught.value, ModelFileError)
    assert str(caught.value).startswith("the chat template of model.gguf ")
    assert len(str(caught.value)) < 3000
    assert chat_template.render("{{ messages[0].content }}", CONVERSATION, True, {}) == "hello"
    if sys.platform == "linux":  # elsewhere memory is not limited
        status = Path(f"/proc/{template_renderer._renderer.pid}/status").read_text()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
        assert 0 < peak < template_renderer.MEMORY + 100 * 2**20


def test_none_of_it_is_taken_from_this_process() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    for template in (ENDLESS[0], HUGE[0], HUGE[2]):
        with pytest.raises(ChatTemplateError):
            chat_template.render(template, CONVERSATION, True, {})
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_maxrss - before.ru_maxrss < 50 * 1024, "KiB"


def test_threads_render_at_once_and_each_gets_its_own() -> None:
    found: dict[int, str] = {}

    def work(n: int) -> None:
        template = ENDLESS[0] if n == 3 else "{{ messages[0].content }}" + str(n)
        try:
            found[n] = chat_template.render(template, CONVERSATION, True, {})
        except ChatTemplateError:
            found[n] = "refused"

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: "refused" if n == 3 else f"hello{n}" for n in range(8)}


def test_a_renderer_that_was_killed_is_started_again() -> None:
    chat_template.render("x", CONVERSATION, True, {})
    process = template_renderer._renderer._process
    assert process is not None
    process.kill()
    process.wait()
    assert chat_template.render("y", CONVERSATION, True, {}) == "y"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_renderer_of_its_own() -> None:
    program = (
        "import os\n"
        "from linnet.text import chat_template as c\n"
        "talk = c.Conversation([{'role': 'user', 'content': 'hello'}])\n"
        "assert c.render('a', talk, True, {}) == 'a'\n"
        "child = os.fork()\n"
        "for i in range(50):\n"
        "    assert c.render(f'{child}', talk, True, {}) == f'{child}'\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (SHARED / "data" / "templates").is_dir(), reason="../shared/data/templates is not there")
def test_long_conversations_stay_far_from_the_limits() -> None:
    turns = [{"role": "user", "content": "word " * 100}, {"role": "assistant", "content": "word " * 100}] * 500
    for path in sorted((SHARED / "data" / "templates").glob("*.jinja")):
        named = {"bos_token": "<s>", "eos_token": "</s>"}
        text = chat_template.render(path.read_text("utf-8"), chat_template.Conversation(turns, tools=[]), True, named)
        assert text.count("word") >= 50_000
