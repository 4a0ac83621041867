"""HTTPS on the public port, and a certificate that is renewed under open connections."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import openai
import pytest
import trustme
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from aweigh_api import mounts
from aweigh_api.certificate import Certificate
from aweigh_api.mounts import UnusableSecret
from aweigh_http.connection import Limits
from aweigh_http.door import Door
from tests.runtime.server.local import Local, loading
from tests.runtime.serving import MODEL, serving

AUTHORITY = trustme.CA()


def trusting(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def issue(directory: Path, authority: trustme.CA = AUTHORITY) -> Path:
    """Puts a fresh certificate for this machine where a Secret would be mounted."""
    directory.mkdir(exist_ok=True)
    pair = authority.issue_cert("localhost", "127.0.0.1")
    pair.private_key_pem.write_to_path(directory / "tls.key")
    chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
    (directory / "tls.crt").write_bytes(chain)
    return directory


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return issue(tmp_path / "tls")


@pytest.fixture
async def local(tmp_path: Path, certificate: Path) -> AsyncIterator[Local]:
    async with loading(tmp_path, tls_dir=certificate) as local:
        yield local


def locked(pem: bytes) -> bytes:
    """The same private key behind a password."""
    return serialization.load_pem_private_key(pem, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


async def serial(port: int) -> int:
    """Of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting())
    shown = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return int(shown, 16)


async def test_the_public_port_speaks_https_and_the_admin_port_does_not(local: Local) -> None:
    assert local.url.startswith("https://")
    async with httpx.AsyncClient(verify=trusting()) as client:
        assert (await client.get(f"{local.url}/health")).status_code == 503  # it loads
        admin = f"http://127.0.0.1:{local.ports.admin_port}"
        assert (await client.get(f"{admin}/livez")).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{local.url.replace('https', 'http')}/health")


async def test_versions_before_1_2_are_refused(local: Local) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting()
        context.minimum_version = context.maximum_version = version
        _, writer = await asyncio.open_connection("127.0.0.1", local.port, ssl=context)
        writer.close()
    old = trusting()
    old.set_ciphers("ALL:@SECLEVEL=0")  # or this client itself would not speak it
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", local.port, ssl=old)


async def test_a_renewed_certificate_is_shown_and_open_connections_stay(
    local: Local, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_BETWEEN_LOOKS_S", 0.0)
    first = await serial(local.port)
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(verify=trusting(), limits=limits) as client:
        assert (await client.get(f"{local.url}/health")).status_code == 503
        issue(certificate)
        second = await serial(local.port)
        assert second != first

        (certificate / "tls.crt").write_text("broken")
        assert await serial(local.port) == second
        issue(certificate)
        key_of_another = trustme.CA().issue_cert("localhost").private_key_pem
        key_of_another.write_to_path(certificate / "tls.key")
        assert await serial(local.port) == second
        (certificate / "tls.key").unlink()
        assert await serial(local.port) == second

        issue(certificate)
        assert await serial(local.port) not in (first, second)
        answer = await client.get(f"{local.url}/health")
        assert answer.status_code == 503  # over the connection that was there before all this
        network = answer.extensions["network_stream"]
        peer = network.get_extra_info("ssl_object").getpeercert()
        assert int(peer["serialNumber"], 16) == first


async def test_over_tls_too_clients_that_do_nothing_are_cut_off(certificate: Path) -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 10_000)
        finally:
            ended.set()

    application = web.Application()
    application.router.add_get("/", endless)
    door = Door(application, Limits(head_s=0.5, stall_s=0.5), Certificate(certificate))
    await door.open("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""  # it never shook hands
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=trusting())
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 10)  # it never read
        writer.transport.abort()
    finally:
        await door.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_who_has_not_shaken_hands_counts_among_the_connections(
    certificate: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(hands_shaken_or_not(certificate))


async def hands_shaken_or_not(certificate: Path) -> None:
    async def greet(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    application = web.Application()
    application.router.add_get("/", greet)
    door = Door(application, Limits(connections=20, head_s=5.0), Certificate(certificate))
    await door.open("127.0.0.1", 0)
    try:
        opened = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(40)]
        await asyncio.sleep(0.5)
        assert sum(reader.at_eof() for reader, _ in opened) == 20
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", door.port, ssl=trusting())
        for number, (_, writer) in enumerate(opened):
            if number % 2:
                writer.write(b"no handshake\r\n")
            else:
                writer.close()
        await asyncio.sleep(0.5)  # far less than a handshake may take
        for _ in range(20):
            opened.append(await asyncio.open_connection("127.0.0.1", door.port, ssl=trusting()))
            opened[-1][1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await opened[-1][0].readuntil(b"hello")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", door.port, ssl=trusting())
        for _, writer in opened:
            writer.transport.abort()
    finally:
        await door.close()


async def test_over_tls_too_who_leaves_the_last_answer_unread_is_cut_off(certificate: Path) -> None:
    size = 16 << 20

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * size)

    application = web.Application()
    application.router.add_get("/", large)
    door = Door(application, Limits(stall_s=0.5), Certificate(certificate))
    await door.open("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=trusting())
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await reader.readexactly(1)
        await asyncio.sleep(2)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(size), 10)
        writer.transport.abort()
    finally:
        await door.close()


@pytest.mark.long
async def test_over_tls_too_a_slow_reader_that_goes_on_reading_is_not_cut_off(
    certificate: Path,
) -> None:
    """Nor when the connection ends with the answer, for which TLS has a limit of its own."""
    size = 16 << 20

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * size)

    application = web.Application()
    application.router.add_get("/", large)
    door = Door(application, Limits(stall_s=5.0), Certificate(certificate))
    await door.open("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=trusting())
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received, started_s = 0, time.monotonic()
        while piece := await reader.read(16 << 10):
            received += len(piece)
            await asyncio.sleep(0.04)
        assert received > size
        assert time.monotonic() - started_s > 35  # more than asyncio gives it
        writer.close()
    finally:
        await door.close()


async def test_who_comes_in_while_the_door_closes_is_let_go(certificate: Path) -> None:
    door = Door(web.Application(), Limits(), Certificate(certificate))
    await door.open("127.0.0.1", 0)
    await door.close()
    ours, theirs = socket.socketpair()
    with theirs:
        door._secure(ours)
        await asyncio.gather(*door._handshakes)
        assert theirs.recv(1) == b""


@pytest.mark.parametrize(
    "spoil", ["no certificate", "no key", "not PEM", "a stranger's key", "a locked key"]
)
def test_files_that_are_no_good_are_refused_with_their_place(certificate: Path, spoil: str) -> None:
    key, chain = certificate / "tls.key", certificate / "tls.crt"
    match spoil:
        case "no certificate":
            chain.unlink()
        case "no key":
            key.unlink()
        case "not PEM":
            chain.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        case "a stranger's key":
            trustme.CA().issue_cert("a").private_key_pem.write_to_path(key)
        case "a locked key":
            key.write_bytes(locked(key.read_bytes()))
    with pytest.raises(UnusableSecret, match="tls") as refused:
        Certificate(certificate)
    assert str(certificate) in str(refused.value)


def test_a_server_without_its_certificate_ends_with_one_clear_line(tmp_path: Path) -> None:
    with serving(tmp_path, f"--tls-dir={tmp_path}") as served:
        assert served.process.wait(timeout=60) == 78
        assert served.termination()["reason"] == "InvalidConfiguration"
        assert f"{tmp_path}/tls.crt" in served.termination()["message"]


def test_the_openai_client_asks_over_https_with_a_key(tmp_path: Path, certificate: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "me").write_text("a-key-of-mine-0123456789\n")
    flags = (f"--tls-dir={certificate}", f"--api-keys-dir={keys}", "--dtype=fp32")
    with serving(tmp_path, *flags) as served:
        served.wait_ready()
        url = f"https://127.0.0.1:{served.port}/v1"
        for api_key, welcome in (("a-key-of-mine-0123456789", True), ("another-0123456789", False)):
            client = openai.OpenAI(
                base_url=url,
                api_key=api_key,
                http_client=openai.DefaultHttpxClient(verify=trusting()),
                max_retries=0,
            )
            try:
                stream = client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": "What is a Pod?"}],
                    temperature=0,
                    stream=True,
                )
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
                assert welcome
                assert "containers" in text
            except openai.AuthenticationError:
                assert not welcome
            client.close()
        assert '"key": "me"' in served.log.read_text()
        assert "a-key-of-mine" not in served.log.read_text()
