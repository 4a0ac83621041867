"""`aweigh chat` as a process against a server: questions, terminals, and what goes wrong."""

import asyncio
import os
import pty
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.cli.command import arguments, environment
from tests.cli.fake_kubectl import fake_kubectl
from tests.cli.openai_server import OpenAIServer

UNUSED = "http://127.0.0.1:9/v1"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


async def chat(*given: str, stdin: str = "", **variables: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        *arguments("chat", *given),
        env=environment(**variables),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    assert process.returncode is not None
    return Done(process.returncode, stdout.decode(), stderr.decode())


class Terminal:
    """A chat in a terminal of its own, as a person sees it."""

    def __init__(self, url: str) -> None:
        self.seen = ""
        self._url = url

    async def __aenter__(self) -> "Terminal":
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self.process = await asyncio.create_subprocess_exec(
            *arguments("chat", self._url),
            env=environment(TERM="dumb"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # A shell that runs the tests in the background has them ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    async def until(self, text: str) -> None:
        """Wait until the text has come after what was waited for before."""
        deadline = asyncio.get_running_loop().time() + 30
        while text not in self.seen:
            assert asyncio.get_running_loop().time() < deadline, f"no {text!r} in {self.seen!r}"
            await asyncio.sleep(0.02)
            self._read()
        self.seen = self.seen.split(text, 1)[1]

    def _read(self) -> None:
        try:
            self.seen += os.read(self._ours, 65536).decode(errors="replace")
        except (BlockingIOError, OSError):
            return


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer().running() as running:
        yield running


async def test_one_question_prints_the_answer_and_leaves(server: OpenAIServer) -> None:
    done = await chat(server.url, "--once", "What is a Pod?")
    assert (done.code, done.stdout, done.stderr) == (0, "A Pod is a group.\n", "")
    assert server.requests[0]["messages"] == [{"role": "user", "content": "What is a Pod?"}]


async def test_without_a_terminal_standard_input_is_the_question(server: OpenAIServer) -> None:
    done = await chat(server.url, stdin="What is\na Pod?\n")
    assert done.stdout == "A Pod is a group.\n"
    assert server.requests[0]["messages"][-1]["content"] == "What is\na Pod?"


async def test_an_empty_question_is_refused(server: OpenAIServer) -> None:
    done = await chat(server.url)
    assert done.code == 78
    assert "standard input is empty" in done.stderr


async def test_url_and_key_come_from_the_variables_of_openai_clients(
    server: OpenAIServer,
) -> None:
    done = await chat("--once", "hi", OPENAI_BASE_URL=server.url, OPENAI_API_KEY="sk-1")
    assert done.code == 0
    assert set(server.keys) == {"Bearer sk-1"}


async def test_our_own_variable_and_the_option_come_before_openais(server: OpenAIServer) -> None:
    server.api_key = "sk-2"
    keys = {"OPENAI_API_KEY": "sk-1", "AWEIGH_API_KEY": "sk-2"}
    assert (await chat(server.url, "--once", "hi", **keys)).code == 0
    server.api_key = "sk-3"
    assert (await chat(server.url, "--api-key", "sk-3", "--once", "hi", **keys)).code == 0


async def test_a_missing_key_is_said_with_what_to_do(server: OpenAIServer) -> None:
    server.api_key = "sk-1"
    done = await chat(server.url, "--once", "hi")
    assert done.code == 1
    assert "answered 401: an API key is needed. Give an API key in AWEIGH_API_KEY" in done.stderr


@dataclass(frozen=True)
class Certified:
    """A server whose certificate is for these names, and the file of its CA."""

    server: OpenAIServer
    ca: str


@pytest.fixture
async def certified(tmp_path: Path) -> AsyncIterator[Certified]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("helmsman.web.svc").configure_cert(tls)
    async with OpenAIServer().running(tls) as server:
        yield Certified(server, str(tmp_path / "ca.crt"))


async def test_a_name_with_a_certificate_is_trusted_with_its_ca(
    certified: Certified, tmp_path: Path
) -> None:
    port = int(certified.server.url.rsplit(":", 1)[1].removesuffix("/v1"))
    url = "https://helmsman.web.svc:8000/v1"
    kubectl = fake_kubectl(tmp_path, services=("helmsman",), port=port, url=url)
    asked = ("helmsman", "-n", "web", "--once", "hi")
    done = await chat(*asked, "--cacert", certified.ca, **kubectl.environment)
    assert (done.code, done.stdout) == (0, "A Pod is a group.\n")
    distrusting = await chat(*asked, **kubectl.environment)
    assert distrusting.code == 69
    assert "cannot trust https://127.0.0.1" in distrusting.stderr
    assert "with --cacert" in distrusting.stderr


async def test_a_certificate_for_another_name_is_not_trusted(certified: Certified) -> None:
    done = await chat(certified.server.url, "--once", "hi", SSL_CERT_FILE=certified.ca)
    assert done.code == 69
    assert "certificate is not valid for '127.0.0.1'" in done.stderr


async def test_a_ca_that_is_none_is_named(server: OpenAIServer, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    for _ in range(2):
        done = await chat(server.url, "--cacert", str(nothing), "--once", "hi")
        assert done.code == 78
        assert f"--cacert is {nothing}, which cannot be read" in done.stderr
        nothing.write_text("no certificate")


async def test_a_host_alone_is_a_url(server: OpenAIServer) -> None:
    host = server.url.removeprefix("http://").removesuffix("/v1")
    assert (await chat(host, "--once", "hi")).code == 0


async def test_the_system_message_comes_first(server: OpenAIServer) -> None:
    await chat(server.url, "--system", "Be brief.", "--once", "hi")
    roles = [message["role"] for message in server.requests[0]["messages"]]
    assert roles == ["system", "user"]


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    server: OpenAIServer,
) -> None:
    done = await chat(server.url, "--once", "hi", http_proxy=UNUSED, HTTP_PROXY=UNUSED)
    assert done.code == 0


async def test_nobody_listening_is_said_with_what_to_do() -> None:
    done = await chat(UNUSED, "--once", "hi")
    assert done.code == 69
    assert f"cannot reach {UNUSED}" in done.stderr
    assert "refused" in done.stderr
    assert "aweigh serve builtin://helmsman-8m" in done.stderr


async def test_waiting_includes_a_server_that_does_not_listen_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as once_free:
        port = once_free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *arguments("chat", f"http://127.0.0.1:{port}/v1", "--wait", "60", "--once", "hi"),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    note = await asyncio.wait_for(process.stderr.readline(), 60)
    assert b"refused" in note
    assert note.endswith(b"; waiting\n")
    async with OpenAIServer().running(port=port):
        stdout, _ = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, stdout) == (0, b"A Pod is a group.\n")


async def test_waiting_for_nobody_ends() -> None:
    done = await chat(UNUSED, "--wait", "1", "--once", "hi")
    assert done.code == 69
    assert "still cannot serve after 1 s: cannot reach" in done.stderr


async def test_an_unknown_model_is_the_servers_sentence(server: OpenAIServer) -> None:
    done = await chat(server.url, "--model", "gpt", "--once", "hi")
    assert done.code == 1
    assert "answered 404: the model gpt does not exist" in done.stderr


async def test_a_url_that_is_no_openai_api_is_named(server: OpenAIServer) -> None:
    done = await chat(server.url + "/v1", "--once", "hi")
    assert done.code == 1
    assert "404" in done.stderr


async def test_an_endpoint_that_loads_is_waited_for(server: OpenAIServer) -> None:
    server.loading = 2
    done = await chat(server.url, "--once", "hi")
    assert done.code == 0
    assert done.stderr == "the model is loading; waiting\n"
    assert done.stdout == "A Pod is a group.\n"


async def test_an_endpoint_that_loads_too_long_is_given_up(server: OpenAIServer) -> None:
    server.loading = 1000
    done = await chat(server.url, "--wait", "1", "--once", "hi")
    assert done.code == 69
    assert "still cannot serve after 1 s: the model is loading" in done.stderr


async def test_an_answer_that_breaks_off_is_an_error(server: OpenAIServer) -> None:
    server.break_off_after = 2
    done = await chat(server.url, "--once", "hi")
    assert done.code == 69
    assert done.stdout == "A Pod\n"
    assert "broke off in the middle of the answer" in done.stderr


async def test_a_namespace_without_a_name_is_refused(server: OpenAIServer) -> None:
    done = await chat(server.url, "-n", "web", "--once", "hi")
    assert done.code == 78
    assert "--namespace web is only for the name of an InferenceService" in done.stderr


async def test_a_name_is_reached_through_kubectl(server: OpenAIServer, tmp_path: Path) -> None:
    port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
    kubectl = fake_kubectl(tmp_path, services=("helmsman",), port=port)
    done = await chat("helmsman", "-n", "web", "--once", "hi", **kubectl.environment)
    assert (done.code, done.stdout) == (0, "A Pod is a group.\n")
    (call,) = kubectl.calls("port-forward")
    assert call[1:] == ["--namespace", "web", "service/helmsman", ":8000"]


async def test_a_name_that_does_not_exist_is_kubectls_own_sentence(tmp_path: Path) -> None:
    done = await chat("nobody", "--once", "hi", **fake_kubectl(tmp_path).environment)
    assert done.code == 1
    assert "Error from server (NotFound): inferenceservices.serving" in done.stderr


async def test_a_service_that_is_not_ready_says_why_itself(tmp_path: Path) -> None:
    kubectl = fake_kubectl(tmp_path, services=("helmsman",), serving=0)
    done = await chat("helmsman", "--once", "hi", **kubectl.environment)
    assert done.code == 69
    assert done.stderr == "error: InferenceService helmsman is not ready: helmsman waits\n"


async def test_a_question_that_is_not_text_is_asked_all_the_same(server: OpenAIServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *arguments("chat", server.url), env=environment(), stdin=asyncio.subprocess.PIPE
    )
    await asyncio.wait_for(process.communicate(b"\xff\xfe What is a Pod?"), 60)
    assert process.returncode == 0


async def test_a_conversation_remembers_and_ctrl_d_leaves(server: OpenAIServer) -> None:
    async with Terminal(server.url) as terminal:
        await terminal.until("> ")
        terminal.type("What is a Pod?\n")
        await terminal.until("A Pod is a group.")
        await terminal.until("> ")
        terminal.type("Why?\n")
        await terminal.until("A Pod is a group.")
        await terminal.until("> ")
        terminal.type("\x04")
        assert await asyncio.wait_for(terminal.process.wait(), 30) == 0
    contents = [message["content"] for message in server.requests[1]["messages"]]
    assert contents == ["What is a Pod?", "A Pod is a group.", "Why?"]


async def test_ctrl_c_stops_the_answer_and_not_the_conversation() -> None:
    async with (
        OpenAIServer(answer="one two " * 500, pause_s=0.05).running() as slow,
        Terminal(slow.url) as terminal,
    ):
        await terminal.until("> ")
        terminal.type("Count.\n")
        await terminal.until("one two")
        terminal.interrupt()
        await terminal.until("[stopped]")
        await terminal.until("> ")
        slow.answer = "Yes."
        terminal.type("Still there?\n")
        await terminal.until("Yes.")


async def test_a_failed_question_does_not_end_the_conversation(server: OpenAIServer) -> None:
    async with Terminal(server.url) as terminal:
        await terminal.until("> ")
        server.break_off_after = 0
        terminal.type("hi\n")
        await terminal.until("broke off")
        server.break_off_after = None
        await terminal.until("> ")
        terminal.type("Again?\n")
        await terminal.until("A Pod is a group.")
    assert len(server.requests[1]["messages"]) == 1
