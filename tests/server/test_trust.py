"""Who may come in: addresses, hosts, origins, keys, and how large a request may be. Raw sockets where a client library would not."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from server_process import COMMAND, Server, raw_request, running
from starlette.routing import Route
from victims import tells_nothing
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from linnet.server.app import ROUTERS

KEYS = ("first-key-0123456789", "second-key-9876543210")
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "1 + 1 = ?"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Behind keys, with limits that a test can reach, an origin and a host that are welcome."""
    folder = tmp_path_factory.mktemp("locked")
    keys = folder / "keys"
    keys.write_text("# of the tests\n" + "\n".join(KEYS) + "\n")
    keys.chmod(0o600)
    limits = (
        "--max-body-bytes",
        "20000",
        "--body-timeout",
        "1",
        "--max-prompt-bytes",
        "2000",
        "--max-n",
        "2",
        "--max-header-bytes",
        "4096",
    )
    allowed = ("--allowed-origins", "https://chat.example.org", "--allowed-hosts", "box.example.org")
    with running(folder, "tiny", "--api-keys-file", str(keys), *limits, *allowed) as server:
        yield server


@pytest.fixture(scope="module")
def inside(locked: Server) -> Iterator[httpx.Client]:
    with locked.client(headers={"authorization": f"Bearer {KEYS[0]}"}) as client:
        yield client


def test_every_route_but_health_asks_for_a_key(locked: Server, inside: httpx.Client) -> None:
    paths = {route.path for router in ROUTERS for route in router.routes if isinstance(route, Route)}
    assert {"/", "/docs", "/web/{name}", "/metrics", "/v1/messages/count_tokens"} < paths
    assert len(paths) > len(inside.get("/openapi.json").json()["paths"]) > 15
    with locked.client() as client:
        for path in (*paths, "/openapi.json", "/none"):
            for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE", "BREW"):
                answer = client.request(method, path)
                if path in ("/health", "/api/health"):
                    assert answer.status_code == (200 if method == "GET" else 405)
                    continue
                assert answer.status_code == 401, (method, path)
                if method != "HEAD":
                    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("key", KEYS)
def test_each_key_in_each_way_opens(locked: Server, key: str) -> None:
    basic = "Basic " + base64.b64encode(f"anybody:{key}".encode()).decode()
    with locked.client() as client:
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"authorization": basic}):
            assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["x", KEYS[0][:-1], KEYS[0] + "x", KEYS[0].upper(), "\xff\xfe", "None", "# of the tests"])
def test_what_is_no_key_does_not_open(locked: Server, key: str) -> None:
    with locked.client() as client:
        for headers in (
            {"authorization": f"Bearer {key}".encode("latin-1")},
            {"x-api-key": key.encode("latin-1")},
            {"authorization": b"Basic !!"},
        ):
            assert client.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models",
        "//v1/models",
        "/v1/models?x=/health",
        "/v1/models;/health",
        "/health/../v1/models",
        "/health%2f..%2fv1%2fmodels",
        "/%68ealth",
        "/health/",
        "http://127.0.0.1/health",
        "/v1/models#/health",
        "/HEALTH",
    ],
)
def test_no_spelling_of_a_path_gets_round_the_keys(locked: Server, target: str) -> None:
    """The key is asked for by the bytes of the path, before anybody decodes or normalizes them."""
    assert raw_request(locked, f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") in (401, 400)


@pytest.mark.parametrize(
    "host", ["127.0.0.1/health?", "127.0.0.1/health#", "x@127.0.0.1", "127.0.0.1:80:80", "[::1", "a b", "", "127.0.0.1\\health"]
)
def test_no_host_header_gets_round_them(locked: Server, host: str) -> None:
    assert raw_request(locked, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n") in (400, 403)


@pytest.mark.parametrize("host", ["evil.example", "169.254.169.254", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_a_foreign_host_is_refused(locked: Server, inside: httpx.Client, host: str) -> None:
    answer = inside.get("/v1/models", headers={"host": host})
    assert answer.status_code == 403
    assert "--allowed-hosts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000", "box.example.org:8000"])
def test_hosts_that_are_ours(inside: httpx.Client, host: str) -> None:
    assert inside.get("/v1/models", headers={"host": host}).status_code == 200


def test_two_hosts_are_none(locked: Server) -> None:
    assert raw_request(locked, "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n") in (400, 403)
    assert raw_request(locked, "GET /health HTTP/1.0\r\n\r\n") == 403


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://chat.example.org.evil.example", "http://chat.example.org", "file://"]
)
def test_a_foreign_origin_is_refused(inside: httpx.Client, origin: str) -> None:
    answer = inside.get("/v1/models", headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_origins_that_are_welcome(locked: Server, inside: httpx.Client) -> None:
    welcome = "https://chat.example.org"
    assert inside.get("/v1/models", headers={"origin": welcome}).headers["access-control-allow-origin"] == welcome
    assert inside.get("/v1/models", headers={"origin": locked.url}).status_code == 200
    asked = {"origin": welcome, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with locked.client() as client:  # what a browser asks first comes without a key
        assert client.options("/v1/chat/completions", headers=asked).status_code == 200
        assert client.options("/v1/chat/completions", headers={**asked, "origin": "https://evil.example"}).status_code == 403


def test_a_web_socket_is_guarded_as_routes_are(locked: Server) -> None:
    head = "GET /api/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n"
    key = f"Authorization: Bearer {KEYS[0]}\r\n"
    assert raw_request(locked, head.format("127.0.0.1", "")) == 401
    assert raw_request(locked, head.format("evil.example", key)) == 403
    assert raw_request(locked, head.format("127.0.0.1", key + "Origin: https://evil.example\r\n")) == 403
    assert raw_request(locked, head.format("127.0.0.1", key)) == 101


def test_a_message_of_a_web_socket_is_bounded_as_a_body_is(locked: Server) -> None:
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    with connect(f"ws://127.0.0.1:{locked.port}/api/ws", additional_headers=headers) as socket:
        socket.send(json.dumps({"prompt": "é" * 1500}))
        assert "3000 bytes and this server takes 2000" in json.loads(socket.recv(60))["error"]["message"]
        socket.send("{" * 30_000)
        with pytest.raises(ConnectionClosedError) as closed:
            socket.recv(60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009  # too big


def test_limits_of_a_request(locked: Server, inside: httpx.Client) -> None:
    assert inside.post("/v1/chat/completions", content=b"{" * 30_000).status_code == 413
    assert inside.post("/v1/chat/completions", content=iter([b" " * 9_000] * 4)).status_code == 413  # in chunks, unannounced
    assert raw_request(locked, f"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: {'a' * 100_000}\r\n\r\n") in (400, 431)
    assert raw_request(locked, "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "X-Many: a\r\n" * 300 + "\r\n") == 431
    deep = '{"model": "tiny", "messages": ' + "[" * 5000 + "]" * 5000 + "}"
    answer = inside.post("/v1/chat/completions", content=deep, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert "5001 levels deep and 64 are allowed" in answer.json()["error"]["message"]
    long = {**CHAT, "messages": [{"role": "user", "content": "é" * 1500}]}
    assert "3000 bytes and this server takes 2000" in inside.post("/v1/chat/completions", json=long).json()["error"]["message"]
    assert "n is 3 and this server gives up to 2" in inside.post("/v1/chat/completions", json={**CHAT, "n": 3}).json()["error"]["message"]
    for name, value in (
        ("stop", ["x"] * 65),
        ("stop", "x" * 2000),
        ("logit_bias", {str(i): 1 for i in range(2000)}),
        ("top_logprobs", 1000),
    ):
        answer = inside.post("/v1/chat/completions", json={**CHAT, name: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith(name)


def test_a_body_that_does_not_come_is_not_waited_for(locked: Server) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEYS[0]}\r\nContent-Length: 100\r\n\r\n"
    started = time.monotonic()
    assert raw_request(locked, head + '{"model"') == 408
    assert time.monotonic() - started < 100


def test_who_does_not_come_to_the_point_is_not_waited_for(locked: Server) -> None:
    """Connections without a request, with half of one's head, with half of a second one, and with a byte now and then."""
    whole = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for first, then in ((b"", b""), (whole[:20], b""), (whole, whole[:20])):
        with socket.create_connection(("127.0.0.1", locked.port), timeout=120) as connection:
            connection.sendall(first)
            if then:
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
                connection.sendall(then)
            while connection.recv(4096):
                pass
    with socket.create_connection(("127.0.0.1", locked.port), timeout=120) as connection, suppress(OSError):
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


def test_others_may_not_reach_it_without_keys(tmp_path: Path) -> None:
    def refusal(*arguments: str) -> str:
        done = subprocess.run([*COMMAND, "tiny", *arguments], capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "--api-keys-file FILE, or say --no-auth" in refusal("--host", "0.0.0.0")
    assert "--api-keys-file FILE, or say --no-auth" in refusal("--host", "::")
    assert "cannot be read" in refusal("--api-keys-file", "none")
    (tmp_path / "empty").write_text("# nothing\n\n")
    assert "holds no key" in refusal("--api-keys-file", "empty")
    (tmp_path / "short").write_text("secret\n")
    assert "16 or more" in refusal("--api-keys-file", "short")
    assert "contradict" in refusal("--api-keys-file", "empty", "--no-auth")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen" in refusal("--port", str(taken.getsockname()[1]))


def test_anybody_may_with_no_auth(tmp_path: Path) -> None:
    with running(tmp_path, "tiny", "--host", "0.0.0.0", "--no-auth") as server:
        assert httpx.get(f"http://127.0.0.1:{server.port}/v1/models").status_code == 200
        foreign = httpx.get(f"http://127.0.0.1:{server.port}/v1/models", headers={"host": "evil.example"})
        assert foreign.status_code == 403
        assert listening(server.process.pid) == {("00000000", server.port)}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_else_listens(server: Server) -> None:
    """One port, on the loopback address unless told otherwise, and none of the processes that templates and grammars run in."""
    with server.client() as http:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1, "regex": "[ab]"}
        assert http.post("/v1/completions", json=body).status_code == 200
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    family = [server.process.pid]
    for parent in family:
        family += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    assert set().union(*map(listening, family)) == {("0100007F", server.port)}  # 127.0.0.1, as the kernel writes it


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports of TCP that a process listens on, as Linux has them."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in inodes:
                address, _, port = columns[1].rpartition(":")
                found.add((address, int(port, 16)))
    return found


def test_no_answer_tells_of_the_machine(locked: Server, inside: httpx.Client) -> None:
    """Whatever goes wrong: no path of this machine, no address in memory, no traceback."""
    bodies = [
        {},
        [],
        "x",
        {"model": "/etc/passwd"},
        {**CHAT, "messages": [{"role": "tool", "content": "x"}]},
        {**CHAT, "logit_bias": {"9" * 9: 1}},
        {**CHAT, "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object"}}}]},
    ]
    answers = [
        inside.post(path, json=body)
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/api/chat", "/api/trace")
        for body in bodies
    ]
    answers += [inside.get("/v1/models/..%2f..%2fetc%2fpasswd"), inside.get("/none"), inside.get("/api/model_info?model=../x")]
    for answer in answers:
        assert 400 <= answer.status_code < 500
        tells_nothing(answer.text)
