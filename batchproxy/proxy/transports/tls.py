"""TLS towards an upstream: whom to trust, and who we are."""

from __future__ import annotations

import ssl

from ...engine.errors import SettingError
from ..settings import TLS

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(tls: TLS) -> ssl.SSLContext:
    """The context for connections to an upstream. Raises `SettingError` for a file that cannot be used.

    With a bundle of our own, only that is trusted, not the system's authorities as well.
    """
    if tls.ca is not None:
        _readable("ca", tls.ca)
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as fault:
        raise SettingError("ca", tls.ca, f"expected a file with certificates in PEM: {fault}") from None
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = _VERSIONS[tls.min_version]
    if tls.certificate is not None:
        _show(tls.certificate, tls.key, context)
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _show(certificate: str, key: str | None, context: ssl.SSLContext) -> None:
    _readable("certificate", certificate)
    if key is not None:
        _readable("key", key)
    try:
        # Without a password OpenSSL would ask for that of an encrypted key on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as fault:
        told = f"expected a certificate and its key in PEM, without a password: {fault}"
        raise SettingError("certificate", certificate, told) from None


def _readable(setting: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as fault:
        raise SettingError(setting, path, f"expected a file that can be read: {fault.strerror}") from None
