"""What has gone wrong in other servers of models, each as a test of the rule that prevents it."""

import ast
import json
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from aweigh_runtime.server import admin, app
from tests.runtime.server.local import loading, ready
from tests.runtime.serving import MODEL, Served, serving, wait_for
from tests.runtime.text.helmsman import DIRECTORY

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path for folder in ("operator", "runtime", "kernels") for path in (ROOT / folder).rglob("*.py")
)
ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdefgh"
LOUD = """
import logging
from aweigh_http import logs
quiet = logs.configure
def loud():
    quiet()
    logging.basicConfig(level=1)
    for name in ("aweigh", "aweigh.requests", "aiohttp.server", "asyncio"):
        logging.getLogger(name).setLevel(1)
logs.configure = loud
from aweigh_cli.main import main
main()
"""
TRAP = "import pathlib; pathlib.Path(__file__).with_name('sprung').touch()\n"


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With two keys, the most talkative log there is, and a model that brings code."""
    directory = tmp_path_factory.mktemp("exposed")
    keys = directory / "keys"
    keys.mkdir()
    (keys / "alice").write_text(ALICE)
    (keys / "bob").write_text(BOB)
    flags = (f"--api-keys-dir={keys}", "--dtype=fp32")
    with serving(directory, *flags, uri=f"file://{trapped(directory)}", main=LOUD) as served:
        served.wait_ready()
        yield served


def trapped(directory: Path) -> Path:
    """A copy of the model whose config names code of its own."""
    model = directory / "model"
    model.mkdir()
    for path in DIRECTORY.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((model / name).read_text())
        content["auto_map"] = dict.fromkeys(
            ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "trap.Trap"
        )
        (model / name).write_text(json.dumps(content))
    (model / "trap.py").write_text(TRAP)
    (model / "__init__.py").write_text(TRAP)
    return model


def ask(server: Served, key: str, path: str = "/v1/completions", **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": MODEL, "max_tokens": 1, **fields}
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=60)


def cached(response: httpx.Response) -> int:
    return int(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


# Unsafe deserialisation, remote code: CVE-2024-9052, CVE-2025-32444, CVE-2026-22807 and their kin.


def test_no_source_of_ours_can_run_what_it_reads() -> None:
    forbidden = {
        *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
        *("torch.load", "yaml.load"),
        *("eval", "exec", "literal_eval", "recv_pyobj", "trust_remote_code", "multiprocessing"),
    }
    assert len(SOURCES) > 100
    for path in SOURCES:
        used = set(names(ast.parse(path.read_text())))
        assert not used & forbidden, f"{path}: {used & forbidden}"


def names(tree: ast.Module) -> Iterator[str]:
    """Whatever a module imports, calls, reads or passes by name."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=imported):
                yield from (alias.name.split(".")[0] for alias in imported)
            case ast.ImportFrom(module=str(module), names=imported):
                yield module.split(".")[0]
                yield from (alias.name for alias in imported)
            case ast.Name(id=name):
                yield name
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                yield f"{owner}.{name}"
            case ast.keyword(arg=str(name)):
                yield name


def test_ruff_finds_no_unsafe_call_either() -> None:
    rules = "S102,S301,S302,S307,S506,S602,S604,S605,S614"
    command = [sys.executable, "-m", "ruff", "check", "--preview", "--select", rules, "--no-cache"]
    found = subprocess.run(
        [*command, ROOT / "operator", ROOT / "runtime"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_code_that_a_model_brings_is_never_run(exposed: Served) -> None:
    assert ask(exposed, ALICE, prompt="A Pod").status_code == 200
    (model,) = exposed.log.parent.glob("model")
    assert not (model / "sprung").exists()
    runpy.run_path(str(model / "trap.py"))
    assert (model / "sprung").exists()  # it would have been seen
    (model / "sprung").unlink()


# Tensors, templates and code from clients: CVE-2025-9141, CVE-2026-115911, GHSA-69j4.


@pytest.mark.parametrize(
    "field",
    [
        {"chat_template": "{{ 1 }}"},
        {"chat_template": "{% for i in range(10**9) %}x{% endfor %}"},
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        {"prompt_embeds": "gASVAAAAAAAAAAA="},
        {"documents": [{"text": "a"}]},
        {"mm_processor_kwargs": {"a": 1}},
        {"logits_processors": ["os.system"]},
        {"kv_transfer_params": {"remote_host": "10.0.0.1"}},
        {"vllm_xargs": {"a": 1}},
    ],
    ids=lambda field: next(iter(field)),
)
def test_clients_bring_no_template_tensor_or_code(server: Served, field: dict[str, Any]) -> None:
    refused = server.chat(max_tokens=1, **field)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] in field


# Requests to other machines on a client's word: CVE-2026-24779, CVE-2026-116176.


def test_no_address_in_a_request_is_ever_called(server: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/x.png"
        image = [{"type": "image_url", "image_url": {"url": url}}]
        file = [{"type": "file", "file": {"file_data": url}}]
        for content in (image, file):
            message = {"role": "user", "content": content}
            body = {"model": MODEL, "messages": [message]}
            assert httpx.post(f"{server.url}/v1/chat/completions", json=body).status_code == 400
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": url}}}
        server.chat(url, max_tokens=1, response_format=schema, user=url)
        headers = {"X-Request-Id": url, "X-Forwarded-Host": url, "Referer": url, "Origin": url}
        answered = httpx.get(f"{server.url}/v1/models", headers=headers)
        assert answered.status_code == 200
        assert url not in str(answered.headers)
        bait.settimeout(0.3)
        with pytest.raises(TimeoutError):
            bait.accept()


# Doors beside the one that is locked, and controls that anybody reaches: CVE-2026-48746, ShadowRay.


async def test_there_is_no_route_but_those_that_are_meant(tmp_path: Path) -> None:
    async with loading(tmp_path) as local:
        read = ("/health", "/v1/models", "/v1/models/{name}", "/openapi.json")
        page = ("/", "/page.css", "/page.js")
        assert routes(app.application(local.service)) == {
            *((method, path) for method in ("GET", "HEAD") for path in (*read, *page)),
            *(("POST", path) for path in ("/v1/chat/completions", "/v1/completions")),
            *(("POST", path) for path in ("/tokenize", "/detokenize")),
        }
        assert routes(admin.application(local.service)) == {
            (method, path)
            for method in ("GET", "HEAD")
            for path in ("/livez", "/readyz", "/metrics", "/state")
        }


def routes(application: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in application.router.routes()
        if route.resource is not None
    }


def test_the_admin_port_takes_no_method_that_could_change_something(server: Served) -> None:
    before = server.state()
    for path in ("/livez", "/readyz", "/metrics", "/state"):
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            answer = httpx.request(method, f"{server.admin_url}{path}")
            assert answer.status_code == 405
    for path in ("/", "/shutdown", "/pause", "/debug", "/v1/models", "/metrics/../state/x"):
        assert server.admin(path).status_code == 404
    after = server.state()
    assert (after.boot_id, after.phase) == (before.boot_id, before.phase)
    assert after.arrived_requests == before.arrived_requests


# Denial of service by one number: CVE-2026-34756, CVE-2026-114051, CVE-2026-116173, CVE-2026-93989.


@pytest.mark.parametrize(
    "fields",
    [
        *({"n": n} for n in (0, 9, 10**9, 2**63)),
        {"max_tokens": 2, "min_tokens": 3},
        *({"min_tokens": n} for n in (-1, 2**31, 2**63)),
        *({"logprobs": n} for n in (-1, 21, 129, 2**31)),
        *({"prompt_logprobs": n} for n in (-1, 21, 2**31)),
        {"logit_bias": {"8192": 1}},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"7": 1e9}},
        {"logit_bias": {str(token): 1 for token in range(301)}},
        {"stop_token_ids": [8192]},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": [7] * 1000},
        {"bad_words": ["a"]},
        {"allowed_token_ids": [10**6]},
        {"stop": ["x"] * 5},
        {"best_of": 10**6, "n": 1},
        {"cache_salt": "x" * 1000},
        {"truncate_prompt_tokens": 2**40},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
def test_no_parameter_hurts_the_engine(server: Served, fields: dict[str, Any]) -> None:
    refused = server.complete("A Pod", **{"max_tokens": 1, **fields})
    assert refused.status_code == 400, refused.text
    assert server.complete("A Pod", max_tokens=1).status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize(
    "asked",
    [
        {"regex": "(a{1,9999}){1,9999}"},
        {"regex": "(" * 5000 + ")" * 5000},
        {"regex": "((a|b)*c){1,5000}(.*a.{2000})"},
        {"grammar": 'start: start start | "a" | ""'},
        {"grammar": "start: " + " | ".join(f'"{i}"' for i in range(5000))},
        {"choice": ["x" * 1000 + str(i) for i in range(1024)]},
        {"json": {"$ref": "#"}},
        {"json": {"type": "array", "minItems": 10**9}},
        {"json": {"type": "string", "maxLength": 10**9}},
    ],
    ids=lambda asked: json.dumps(asked)[:40],
)
def test_no_grammar_hurts_the_engine(server: Served, asked: dict[str, Any]) -> None:
    """CVE-2026-105757, CVE-2025-29770: some of these are fine, none may take long or kill."""
    answered = server.complete("A Pod", structured_outputs=asked, max_tokens=2)
    assert answered.status_code in (200, 400), answered.text
    assert server.complete("A Pod", max_tokens=1).status_code == 200


@pytest.mark.parametrize("number", ["0", "-1", "9223372036854775808", "1e400", "NaN", "-Infinity"])
def test_numbers_that_no_machine_holds_are_refused_or_harmless(server: Served, number: str) -> None:
    fields = (
        *("max_tokens", "min_tokens", "n", "top_k", "top_p", "min_p", "temperature", "seed"),
        *("logprobs", "prompt_logprobs", "presence_penalty", "frequency_penalty", "priority"),
        *("repetition_penalty", "truncate_prompt_tokens"),
    )
    for field in fields:
        rest = "" if field == "max_tokens" else ', "max_tokens": 1'
        body = f'{{"model": "{MODEL}", "prompt": "A", "{field}": {number}{rest}}}'
        answer = httpx.post(f"{server.url}/v1/completions", content=body)
        assert answer.status_code in (200, 400), f"{field}: {answer.text}"
    assert server.complete("A Pod", max_tokens=1).status_code == 200


# What one tenant learns about another from the time that a prompt takes: CVE-2025-46570.


def test_two_keys_share_no_cached_prompt_and_one_key_shares_its_own(exposed: Served) -> None:
    prompt = [7 + i % 1000 for i in range(500)]
    assert cached(ask(exposed, ALICE, prompt=prompt)) == 0
    assert cached(ask(exposed, BOB, prompt=prompt)) == 0
    assert cached(ask(exposed, ALICE, prompt=prompt)) > 400
    assert cached(ask(exposed, BOB, prompt=prompt, cache_salt="x")) == 0
    assert cached(ask(exposed, ALICE, prompt=prompt, cache_salt="x")) == 0


async def test_all_keys_share_it_where_the_service_is_the_tenant(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "alice").write_text(ALICE)
    (keys / "bob").write_text(BOB)
    async with (
        ready(tmp_path, api_keys_dir=keys, prefix_cache_scope="Service") as local,
        httpx.AsyncClient(base_url=local.url, timeout=60) as client,
    ):
        body = {"model": MODEL, "prompt": [7] * 500, "max_tokens": 1}
        found = []
        for key in (ALICE, BOB):
            headers = {"Authorization": f"Bearer {key}"}
            found.append(cached(await client.post("/v1/completions", json=body, headers=headers)))
    assert found[0] == 0
    assert found[1] > 400


# Exceptions whose text gets out, and logs that keep what was said: CVE-2026-22778, CVE-2026-54236.


async def test_the_text_of_an_exception_never_reaches_a_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loading(tmp_path) as local:

        def fail() -> None:
            raise RuntimeError("<object at 0x7f3a5c0d1e80> in /etc/aweigh")

        monkeypatch.setattr(local.service, "model", fail)
        async with httpx.AsyncClient(base_url=local.url) as client:
            answers = [await client.get("/v1/models"), await client.post("/v1/completions")]
    for answer in answers:
        assert answer.status_code == 500
        assert "0x7f" not in answer.text
        assert "RuntimeError" not in answer.text
        assert "aiohttp" not in str(answer.headers)


def test_no_prompt_answer_or_key_is_in_the_most_talkative_log(exposed: Served) -> None:
    word = "zanzibar"
    assert httpx.get(f"{exposed.url}/health").status_code == 200
    messages = [{"role": "user", "content": f"{word} one"}]
    answers = [
        ask(exposed, ALICE, prompt=f"{word} two", stop=[word], user=word, cache_salt=word),
        ask(exposed, ALICE, "/v1/chat/completions", messages=messages, stream=True),
        ask(exposed, ALICE, "/v1/chat/completions", messages=messages, temperature=word),
        ask(exposed, ALICE, prompt="A", structured_outputs={"regex": f"({word}"}),
        ask(exposed, ALICE, prompt="A", structured_outputs={"choice": [word]}, max_tokens=8),
        ask(exposed, ALICE, prompt=[word]),
        ask(exposed, ALICE, "/tokenize", prompt=word),
        ask(exposed, f"{word}-wrong-key-0123456789", prompt="A"),
        httpx.get(f"{exposed.url}/v1/models?key={word}", headers={"Authorization": word}),
        httpx.post(f"{exposed.url}/v1/completions", content=f'{{"prompt": "{word}'),
    ]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    assert {answer.status_code for answer in answers[-3:]} == {401}
    last = answers[-1].headers["X-Request-Id"]
    wait_for(lambda: last in exposed.log.read_text())
    log = exposed.log.read_text()
    assert '"level": "debug"' in log  # or this would prove little
    assert '"key": "alice"' in log
    for secret in (word, ALICE, BOB):
        assert secret not in log
