"""TLS towards an upstream: whom to trust, and who we are."""

from __future__ import annotations

import logging
import ssl

from ...engine.errors import SettingError
from ..settings import TLS

logger = logging.getLogger("batchproxy")

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def tls_context(tls: TLS) -> ssl.SSLContext:
    """The context for connections to an upstream. Raises `SettingError` for a file that cannot be used."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = _VERSIONS[tls.min_version]
    if tls.ca is not None:
        # Only the bundle is trusted, not the system's authorities as well.
        context = _only(tls.ca, context)
    if tls.certificate is not None:
        try:
            context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as fault:
            raise SettingError("certificate", tls.certificate, f"expected a certificate and its key: {fault}") from None
    if tls.insecure_skip_verify:
        logger.warning("upstream.insecure: certificates of an upstream are not verified (insecure_skip_verify)")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _only(ca: str, like: ssl.SSLContext) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as fault:
        raise SettingError("ca", ca, f"expected a file with certificates in PEM: {fault}") from None
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = like.minimum_version
    return context
