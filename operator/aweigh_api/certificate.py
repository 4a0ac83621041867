"""The public port's certificate: read from files, and read again when they are replaced."""

import logging
import ssl
from pathlib import Path

from aweigh_api.mounts import Mount, UnusableSecret

CERTIFICATE = "tls.crt"
PRIVATE_KEY = "tls.key"

_log = logging.getLogger("aweigh.server")


class Certificate:
    """One TLS context for the life of the server; open connections outlive a renewal."""

    def __init__(self, directory: Path) -> None:
        """Read the files.

        Raises:
            UnusableSecret: one is missing or no good, or they do not belong together.
        """
        self._directory = directory
        self._mount = Mount(directory)
        self.context = _context()
        self._load()

    def follow(self) -> None:
        """Called for each new connection. Files that are no good leave the certificate as it is."""
        if not self._mount.changed():
            return
        try:
            self._load()
        except UnusableSecret as failure:
            _log.error("the certificate stays as it was: %s", failure)
        else:
            _log.info("read the certificate again")

    def _load(self) -> None:
        """A pair that does not match would spoil the context, so another one tries it first."""
        for context in (_context(), self.context):
            self._load_into(context)

    def _load_into(self, context: ssl.SSLContext) -> None:
        certificate, key = self._directory / CERTIFICATE, self._directory / PRIVATE_KEY
        for path in (certificate, key):
            try:
                path.open("rb").close()
            except OSError as error:
                raise UnusableSecret(
                    f"cannot read {path}: {error.strerror}; --tls-dir must hold {CERTIFICATE} and "
                    f"{PRIVATE_KEY}"
                ) from error
        try:
            context.load_cert_chain(certificate, key, password="")  # none: never ask a terminal
        except (ssl.SSLError, OSError) as error:
            raise UnusableSecret(
                f"{CERTIFICATE} and {PRIVATE_KEY} in {self._directory} cannot be used: "
                f"{error.strerror or error}; expected a PEM certificate chain and its private key, "
                "unencrypted"
            ) from error


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context
