"""A warm cache shows in `kubectl get infs`; keys and certificates of a Secret reach the pods."""

import base64
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.cli.command import aweigh, environment
from tests.cluster.cluster import Cluster
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

SMALL = {"uri": "builtin://helmsman-1m-draft"}
LONG_PROMPT = "A Deployment keeps a number of pods of one template running. " * 40
REPORTS_S = 180.0  # the operator reads reports three times a minute; the machine may be busy
KUBELET_S = 180.0  # it writes a changed Secret into its pods within about a minute
SECRET_DELAY_S = 3.0


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    return Service(cluster, namespace)


@dataclass(frozen=True)
class Client:
    """Asks one service, over whatever it speaks."""

    client: httpx.Client
    certified_name: str | None = None

    def post(self, prompt: str = "What is a Pod?", key: str | None = None) -> httpx.Response:
        """Ask for one token; `key` is the API key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": "chat", "prompt": prompt, "max_tokens": 1}
        extensions = {"sni_hostname": self.certified_name} if self.certified_name else {}
        return self.client.post(
            "/v1/completions", json=body, headers=headers, extensions=extensions
        )

    def usage(self, prompt: str) -> tuple[int, int]:
        """Tokens of the prompt, and how many of them were cached."""
        answer = self.post(prompt)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]

    def answers(self) -> bool:
        """Whether the Service leads to the pod already: kube-proxy learns of it a moment late."""
        try:
            self.post()
        except httpx.TransportError:
            return False
        return True


def column(service: Service, title: str) -> str:
    """One cell of `kubectl get infs`; empty cells keep their place."""
    shown = service.cluster.kubectl("get", "infs", service.name, "-n", service.namespace)
    head, row = shown.splitlines()
    start = head.index(title)
    return row[start : start + len(title) + 2].strip()


def test_a_warm_cache_shows_in_kubectl_get(service: Service, tell: Callable[[str], None]) -> None:
    service.apply(model=SMALL, prefixCache={"size": "1Ti", "blockTokens": 16})
    service.wait_ready()
    with (
        service.cluster.endpoint(service.namespace, service.name, 8000) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        client = Client(http)
        service.cluster.wait(f"{url} to answer", client.answers)
        asked = [client.usage(LONG_PROMPT) for _ in range(5)]
    assert asked[0][1] == 0, "the first prompt of its kind was found in the cache"
    assert all(cached >= 0.9 * total for total, cached in asked[1:])
    total, cached = (sum(each) for each in zip(*asked, strict=True))

    expected, begun = 100 * cached / total, time.monotonic()

    def told() -> bool:
        # Prompts that only asked whether the Service answers count too.
        shown = column(service, "HIT%")
        return shown != "" and abs(int(shown) - expected) <= 5

    service.cluster.wait(f"HIT% to be about {expected:.0f}", told, REPORTS_S)
    shown = service.status()["prefixCache"]
    tell(
        f"HIT% {shown['hitRatePercent']} after {time.monotonic() - begun:.0f} s; "
        f"{cached} of {total} prompt tokens were cached"
    )
    assert column(service, "HIT%") == str(shown["hitRatePercent"])
    warm = service.condition("PrefixCacheWarm")
    assert (warm["status"], warm["reason"]) == ("True", "Warm")
    assert f"{shown['hitRatePercent']} %" in warm["message"]

    assert 0 < shown["effectiveBytes"] < 2**40
    service.cluster.wait(
        "the event of a clamped size", lambda: "PrefixCacheSizeClamped" in _event_reasons(service)
    )


@pytest.fixture
def alice() -> str:
    return secrets.token_hex(16)


@pytest.fixture
def closed(service: Service, alice: str, tmp_path: Path) -> Iterator[Client]:
    """A service with TLS that only alice may use."""
    authority, host = trustme.CA(), f"{service.name}.{service.namespace}.svc"
    certificate = authority.issue_cert(host)
    chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
    _apply_secret(service, "keys", alice=alice.encode())
    _apply_secret(
        service,
        "certificate",
        "kubernetes.io/tls",
        **{"tls.crt": chain, "tls.key": certificate.private_key_pem.bytes()},
    )
    service.apply(
        model=SMALL,
        auth={"apiKeys": {"secretRef": {"name": "keys"}}},
        tls={"secretRef": {"name": "certificate"}},
    )
    service.wait_ready()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        secure = url.replace("http://", "https://")
        with httpx.Client(base_url=secure, verify=trusting, timeout=60) as http:
            client = Client(http, host)
            service.cluster.wait(f"{secure} to answer", client.answers)
            yield client


def test_a_closed_service_wants_a_key_and_follows_its_secret(
    service: Service, closed: Client, alice: str, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    assert service.status()["url"] == f"https://chat.{service.namespace}.svc:8000/v1"
    refused = closed.post()
    assert refused.status_code == 401
    assert refused.json()["error"]["type"]
    assert closed.post(key=secrets.token_hex(16)).status_code == 401
    assert closed.post(key=alice).status_code == 200
    _expect_nothing_but_tls(closed)
    _expect_a_chat(service, alice, tmp_path / "ca.crt")

    (pod,) = service.pods()
    bob = secrets.token_hex(16)
    _apply_secret(service, "keys", bob=bob.encode())
    begun = time.monotonic()
    # The kubelet looks at a pod's Secrets when the pod changes, and not only once a minute. Its
    # own watch of the Secret may be a moment late.
    time.sleep(SECRET_DELAY_S)
    service.cluster.kubectl(
        "annotate", "pod", pod["metadata"]["name"], "-n", service.namespace, "test=rotated"
    )
    wait = service.cluster.wait
    wait("the new key to open", lambda: closed.post(key=bob).status_code == 200, KUBELET_S)
    wait("the old key to close", lambda: closed.post(key=alice).status_code == 401)
    tell(f"a key was replaced within {time.monotonic() - begun:.0f} s")
    (same,) = service.pods()
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]
    assert same["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_service_whose_keys_do_not_exist_says_so(service: Service) -> None:
    service.apply(auth={"apiKeys": {"secretRef": {"name": "none-such"}}})
    found = service.wait_for_reason("Ready", "MountFailed")
    assert 'secret "none-such" not found' in found["message"]


def _expect_nothing_but_tls(closed: Client) -> None:
    with (
        httpx.Client(base_url=str(closed.client.base_url), timeout=10) as distrusting,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        Client(distrusting, closed.certified_name).post()
    plain = str(closed.client.base_url).replace("https://", "http://")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{plain}/health", timeout=10)


def _expect_a_chat(service: Service, key: str, ca: Path) -> None:
    """`aweigh chat` by name: through kubectl, and with the certificate checked all the same."""
    known = service.cluster.environment()
    kept = {name: known[name] for name in ("KUBECONFIG", "PATH") if name in known}
    asked = ("chat", service.name, "-n", service.namespace, "--once", "hi", "--cacert", str(ca))
    done = aweigh(*asked, env=environment(AWEIGH_API_KEY=key, **kept))
    assert done.returncode == 0, done.stderr


def _apply_secret(service: Service, name: str, type_: str = "Opaque", **entries: bytes) -> None:
    """Make the Secret hold these entries and no others."""
    data = {entry: base64.b64encode(value).decode() for entry, value in entries.items()}
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": type_,
        "data": data,
    }
    service.cluster.apply(body, service.namespace)


def _event_reasons(service: Service) -> set[str]:
    events = service.cluster.list("events.events.k8s.io", service.namespace)
    return {event["reason"] for event in events if event["regarding"]["name"] == service.name}
