"""Whom the router trusts to be a pod: who shows the certificate that the service's Secret holds."""

import ssl
from pathlib import Path

from aweigh_api.certificate import CERTIFICATE
from aweigh_api.mounts import Mount

AUTHORITY = "ca.crt"  # beside the certificate, where its issuer has put it


class Trust:
    """Pods are asked by address, for which no certificate is. So what counts is the certificate."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mount = Mount(directory)
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        # A certificate is trusted by itself, whoever has issued it.
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._load()

    def follow(self) -> None:
        """Take a renewed one besides: pods change to it when the kubelet has brought it."""
        if self._mount.changed():
            self._load()

    def _load(self) -> None:
        for name in (CERTIFICATE, AUTHORITY):
            path = self._directory / name
            if path.is_file():
                self.context.load_verify_locations(path)
