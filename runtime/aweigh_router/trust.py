"""Whom the router trusts to be a pod: who shows the certificate that the service's Secret holds."""

import logging
import ssl
from pathlib import Path

from aweigh_api.certificate import CERTIFICATE
from aweigh_api.mounts import Mount

AUTHORITY = "ca.crt"  # beside the certificate, where its issuer has put it

_log = logging.getLogger("aweigh.router")


class Trust:
    """Pods are asked by address, for which no certificate is. So what counts is the certificate."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mount = Mount(directory)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which trusts nobody yet
        self.context.check_hostname = False
        # A certificate is trusted by itself, whoever has issued it.
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._load()

    def follow(self) -> None:
        """Take a renewed one besides: pods change to it when the kubelet has brought it."""
        if not self._mount.changed():
            return
        try:
            self._load()
        except ssl.SSLError as error:
            _log.error("whom the router trusts stays as it was: %s", error)

    def _load(self) -> None:
        for name in (CERTIFICATE, AUTHORITY):
            path = self._directory / name
            if path.is_file():
                self.context.load_verify_locations(path)
