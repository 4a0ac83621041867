"""A folder of this machine as a claim in the cluster."""

from pathlib import Path

from tests.cluster.cluster import Cluster

READ, WRITE = "ReadOnlyMany", "ReadWriteMany"


def claim(
    cluster: Cluster, namespace: str, folder: Path, name: str = "models", *, mode: str = READ
) -> str:
    """Make the folder a claim that pods can read, or write; returns the volume's name."""
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    if mode == WRITE:
        folder.chmod(0o777)
    volume = f"{name}-{namespace}"
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": [mode],
                "storageClassName": "",
                "claimRef": {"name": name, "namespace": namespace},
                "hostPath": {"path": str(folder)},
            },
        }
    )
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": [mode],
                "storageClassName": "",
                "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": volume,
            },
        },
        namespace,
    )
    return volume
