"""The cluster's own certificate authority, its certificates, and the kubeconfigs that use them."""

import json
from pathlib import Path

from tests.cluster import progress
from tests.cluster.network import NODE_IP
from tests.cluster.places import Place

DAYS = 3650
API_NAMES = (
    "kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local"
)
API_IPS = ("127.0.0.1", "10.96.0.1", NODE_IP)
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "controllers": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    "dns": "/O=system:masters/CN=coredns",
    "apiserver-kubelet": "/O=system:masters/CN=apiserver-kubelet",
    "front-proxy": "/CN=front-proxy",
}


def create(place: Place) -> None:
    """Make every key, certificate and kubeconfig of a new cluster."""
    folder = place.run / "pki"
    folder.mkdir(parents=True)
    (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")
    _issue(folder, "ca", "/CN=aweigh-test", ["basicConstraints=critical,CA:TRUE"], signed=False)
    service_accounts = folder / "service-accounts"
    progress.output([*_NEW_KEY, "-out", f"{service_accounts}.key"])
    public = ["openssl", "pkey", "-in", f"{service_accounts}.key", "-pubout"]
    progress.output([*public, "-out", f"{service_accounts}.pub"])

    names = [f"DNS:{name}" for name in API_NAMES.split(",")] + [f"IP:{ip}" for ip in API_IPS]
    _issue(folder, "apiserver", "/CN=kube-apiserver", _server(names))
    kubelet = "/O=system:nodes/CN=system:node:node1"
    _issue(folder, "kubelet", kubelet, _server(["DNS:node1", f"IP:{NODE_IP}"]))
    for name, subject in CLIENTS.items():
        _issue(folder, name, subject, ["extendedKeyUsage=clientAuth"])
    for name in ("admin", "controllers", "scheduler", "proxy", "dns", "kubelet"):
        (place.run / f"{name}.kubeconfig").write_text(_kubeconfig(folder, name))


_NEW_KEY = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]


def _server(names: list[str]) -> list[str]:
    return [f"subjectAltName={','.join(names)}", "extendedKeyUsage=serverAuth,clientAuth"]


def _issue(
    folder: Path, name: str, subject: str, extensions: list[str], signed: bool = True
) -> None:
    path = folder / name
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", f"{path}.key", "-out", f"{path}.crt"]
    signer = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key"] if signed else []
    added = [word for extension in extensions for word in ("-addext", extension)]
    request = ["openssl", "req", "-x509", "-config", folder / "openssl.cnf", "-days", str(DAYS)]
    progress.output([*request, "-subj", subject, *new, *files, *signer, *added])


def _kubeconfig(folder: Path, name: str) -> str:
    """A kubeconfig is YAML, and JSON is YAML."""
    cluster = {"server": f"https://{NODE_IP}:6443", "certificate-authority": f"{folder}/ca.crt"}
    user = {
        "client-certificate": f"{folder}/{name}.crt",
        "client-key": f"{folder}/{name}.key",
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        },
        indent=1,
    )
