"""What runs on the one node: the configuration and the command line of every process.

Every path is absolute and lies in the cluster's own folders.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import places
from tests.cluster.binaries import program
from tests.cluster.network import NODE_IP
from tests.cluster.places import Place

DNS_IP = "10.96.0.10"
REGISTRY = f"{NODE_IP}:5000"
PAUSE_IMAGE = "registry.local/pause:1"
SERVICE_IPS = "10.96.0.0/16"
POD_IPS = "10.244.0.0/16"
CNI_PROGRAMS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
ETCD = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"


def registry_content() -> Path:
    """Images that were pushed. Clusters share them: one copy of torch serves every checkout."""
    return places.cache() / "registry"


def configure(place: Place) -> None:
    """Write the configuration files that the command lines name."""
    run = place.run
    hosts = run / "registries" / REGISTRY
    for folder in (hosts, run / "cni", registry_content()):
        folder.mkdir(parents=True, exist_ok=True)
    # `server = "http://…"` is not enough for containerd 1.6 to speak plain HTTP.
    (hosts / "hosts.toml").write_text(
        f'[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    (run / "containerd.toml").write_text(_containerd(place))
    (run / "resolv.conf").write_text(f"nameserver {DNS_IP}\n")
    (run / "Corefile").write_text(
        f".:53 {{\n  bind {NODE_IP}\n  kubernetes cluster.local {{\n"
        f"    kubeconfig {run}/dns.kubeconfig\n  }}\n}}\n"
    )
    documents = {
        "audit.yaml": _AUDIT_POLICY,
        "cni/10-pods.conflist": _pod_network(place),
        "kubelet.yaml": _kubelet(place),
        "proxy.yaml": _proxy(place),
        "registry.yaml": _registry(),
    }
    for name, document in documents.items():
        (run / name).write_text(json.dumps(document, indent=1))


def commands(place: Place) -> dict[str, Sequence[object]]:
    """The command line of every process, by the name of its log."""
    run = place.run
    return {
        "etcd": etcd(run),
        "registry": [program("registry"), "serve", run / "registry.yaml"],
        "containerd": ["containerd", "--config", run / "containerd.toml"],
        "apiserver": [*api_server(run), *_audited(run)],
        "controllers": controllers(run),
        "scheduler": scheduler(run),
        "kubelet": [
            program("kubelet"),
            f"--config={run}/kubelet.yaml",
            f"--kubeconfig={run}/kubelet.kubeconfig",
            "--hostname-override=node1",
            f"--node-ip={NODE_IP}",
            f"--root-dir={run}/kubelet",
            f"--cert-dir={run}/pki",
        ],
        "proxy": [program("kube-proxy"), f"--config={run}/proxy.yaml"],
        "dns": [program("coredns"), "-conf", run / "Corefile"],
    }


def etcd(run: Path) -> Sequence[object]:
    """The command line of etcd."""
    return [
        program("etcd"),
        "--name=test",
        f"--data-dir={run}/etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={ETCD_PEER}",
        f"--initial-advertise-peer-urls={ETCD_PEER}",
        f"--initial-cluster=test={ETCD_PEER}",
    ]


def api_server(run: Path) -> Sequence[object]:
    """The command line of the API server."""
    pki = run / "pki"
    return [
        program("kube-apiserver"),
        f"--etcd-servers={ETCD}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_IP}",
        "--secure-port=6443",
        f"--cert-dir={pki}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--proxy-client-cert-file={pki}/front-proxy.crt",
        f"--proxy-client-key-file={pki}/front-proxy.key",
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--service-cluster-ip-range={SERVICE_IPS}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]


def _audited(run: Path) -> list[str]:
    return [f"--audit-policy-file={run}/audit.yaml", f"--audit-log-path={audit_log(run)}"]


def audit_log(run: Path) -> Path:
    """What service accounts asked of the API server, a JSON object a line."""
    return run / "logs" / "audit.log"


def controllers(run: Path) -> Sequence[object]:
    """The command line of Kubernetes' controllers."""
    return [
        program("kube-controller-manager"),
        *_kubeconfigs(run, "controllers"),
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={run}/pki/service-accounts.key",
        f"--root-ca-file={run}/pki/ca.crt",
        f"--cert-dir={run}/pki",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={POD_IPS}",
        f"--service-cluster-ip-range={SERVICE_IPS}",
        "--horizontal-pod-autoscaler-sync-period=2s",
        "--kube-api-qps=300",
        "--kube-api-burst=600",
    ]


def scheduler(run: Path) -> Sequence[object]:
    """The command line of the scheduler."""
    return [
        program("kube-scheduler"),
        *_kubeconfigs(run, "scheduler"),
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        f"--cert-dir={run}/pki",
    ]


def _kubeconfigs(run: Path, name: str) -> list[str]:
    flags = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return [f"--{flag}={run}/{name}.kubeconfig" for flag in flags]


_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}],
    "omitStages": ["RequestReceived"],
}


def _containerd(place: Place) -> str:
    programs = next((path for path in CNI_PROGRAMS if path.is_dir()), CNI_PROGRAMS[0])
    return f"""version = 2
root = "{place.images}"
state = "{place.sockets}/containerd"
[grpc]
  address = "{containerd_socket(place)}"
[ttrpc]
  address = "{place.sockets}/ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true       # without CAP_SYS_RESOURCE nobody may lower oom_score_adj
  netns_mounts_under_state_dir = true # where the end of the cluster finds and removes them
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    discard_unpacked_layers = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    options = {{ SystemdCgroup = false }}
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{place.run}/registries"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{programs}"
    conf_dir = "{place.run}/cni"
"""


def containerd_socket(place: Place) -> Path:
    """Where containerd listens; its shims carry it on their command line."""
    return place.sockets / "containerd.sock"


def _pod_network(place: Place) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{place.run}/addresses",
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": place.name, "plugins": [bridge, ports]}


def _kubelet(place: Place) -> dict[str, Any]:
    pki = place.run / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{containerd_socket(place)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{place.run}/resolv.conf",
        "podLogsDir": f"{pod_logs(place)}",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMaximumGCAge": "12h",
    }


def pod_logs(place: Place) -> Path:
    """Where the kubelet keeps what containers print."""
    return place.run / "pods"


def _proxy(place: Place) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{place.run}/proxy.kubeconfig"},
        "mode": "iptables",
        "clusterCIDR": POD_IPS,
        "hostnameOverride": "node1",
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpCloseWaitTimeout": "0s",
            "tcpEstablishedTimeout": "0s",
        },
    }


def _registry() -> dict[str, Any]:
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": f"{registry_content()}"}},
        "http": {"addr": REGISTRY},
    }
