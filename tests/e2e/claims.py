"""A folder of this machine as a claim in the cluster."""

from pathlib import Path

from tests.cluster.cluster import Cluster


def claim(cluster: Cluster, namespace: str, folder: Path) -> str:
    """Make the folder a claim `models` that pods can read; returns the volume's name."""
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    volume = f"models-{namespace}"
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "claimRef": {"name": "models", "namespace": namespace},
                "hostPath": {"path": str(folder)},
            },
        }
    )
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": volume,
            },
        },
        namespace,
    )
    return volume
