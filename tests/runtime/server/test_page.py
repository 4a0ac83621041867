"""The page at `/`, as a browser gets it, and its script against the real server."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from aweigh_runtime.server import page
from tests.runtime.local_server import LocalServer
from tests.runtime.serving import Served, wait_for

FILES = Path(page.__file__).parent
QUESTION = "What does the field replicas do in a Deployment, and what in a StatefulSet, please?"
NODE = shutil.which("node")


def test_the_page_brings_all_that_it_needs(server: Served) -> None:
    html = httpx.get(f"{server.url}/")
    assert html.headers["Content-Type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="([^"]+)"', html.text)
    assert sorted(linked) == ["page.css", "page.js"]
    for name in linked:
        answer = httpx.get(f"{server.url}/{name}")
        assert answer.text == (FILES / name).read_text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_the_page_names_no_other_server() -> None:
    for path in FILES.glob("*.*"):
        assert not re.search(r"https?://|//[a-z]", path.read_text().replace("// ", ""))


def test_every_field_of_the_page_has_a_label() -> None:
    html = (FILES / "index.html").read_text()
    for field in re.findall(r"<(?:input|textarea)[^>]*>", html):
        (id,) = re.findall(r'id="(\w+)"', field)
        assert f'for="{id}"' in html or re.search(rf"<label[^>]*>[^<]*{re.escape(field)}", html)


@pytest.mark.skipif(NODE is None, reason="Node runs the page's script")
def test_the_page_shows_the_answer_and_its_figures(server: Served) -> None:
    _shown(server)
    second = _shown(server)
    (_, question), (role, answer) = second["turns"]
    assert (role, question) == ("assistant", QUESTION)
    assert len(answer) > 20
    figures = second["shown"]
    assert re.fullmatch(r"\d+\.\d", figures["rate"])
    assert re.fullmatch(r"\d+ ms", figures["first"])
    assert re.fullmatch(r"[1-9]\d* %", figures["hits"])


@pytest.mark.skipif(NODE is None, reason="Node runs the page's script")
def test_a_conversation_begun_during_an_answer_knows_nothing_of_it(server: Served) -> None:
    shown = _shown(server, "forget")
    assert shown["asked"] == [["user"], ["user"]]
    assert [role for role, _ in shown["turns"]] == ["user", "assistant"]


@pytest.mark.skipif(NODE is None, reason="Node runs the page's script")
def test_enter_sends_and_escape_ends_the_answer(server: Served) -> None:
    shown = _shown(server, "keys")
    assert shown["unsent"] == QUESTION  # with Shift, or while a character is being composed
    assert shown["asked"] == [["user"]]
    (_, (role, answer)) = shown["turns"]
    assert role == "assistant"
    assert answer
    wait_for(lambda: server.state().running == 0, 5)
    fields = {"temperature": 0, "max_tokens": 1500}
    whole = server.chat(QUESTION, **fields).json()["choices"][0]["message"]["content"]
    assert len(answer) < len(whole)


def test_the_page_follows_the_colours_that_the_reader_prefers() -> None:
    light, dark = (FILES / "page.css").read_text().split("@media (prefers-color-scheme: dark)")
    own = re.findall(r"(--[\w-]+):", light)
    assert own
    assert set(re.findall(r"(--[\w-]+):", dark)) == set(own)
    assert '<meta name="color-scheme" content="light dark">' in (FILES / "index.html").read_text()


class Guessing(LocalServer):
    """As much of a server that guesses ahead as the page asks for."""

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)

    async def _models(self, request: web.Request) -> web.Response:
        speculation = {"state": "paused", "acceptance_percent": 31}
        return web.json_response({"data": [{"id": "chat", "speculation": speculation}]})

    async def _chat(self, request: web.Request) -> web.Response:
        usage = {"prompt_tokens": 4, "completion_tokens": 1}
        event = {"choices": [{"delta": {"content": "A Pod."}}], "usage": usage}
        return web.Response(text=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")


@pytest.mark.skipif(NODE is None, reason="Node runs the page's script")
def test_the_page_shows_how_many_guesses_were_right_and_asks_again_after_an_answer() -> None:
    with Guessing() as server:
        shown = _shown(server)
        asked = server.paths()
    assert shown["turns"][1] == ["assistant", "A Pod."]
    assert shown["shown"]["accepted"] == "31 % (paused)"
    assert asked[-2:] == ["/v1/chat/completions", "/v1/models"]


def _shown(server: Served | LocalServer, *more: str) -> dict[str, Any]:
    """What the page shows once its first question has been answered."""
    driver = Path(__file__).parent / "page_driver.js"
    command = [str(NODE), str(driver), str(FILES / "page.js"), server.url, QUESTION, *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    shown: dict[str, Any] = json.loads(ended.stdout)
    return shown
