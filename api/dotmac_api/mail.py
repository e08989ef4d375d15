"""E-mail through the SMTP server that the notifications settings name."""

import logging
from email.message import EmailMessage

import aiosmtplib

from dotmac_api.domains.store import SettingsStore
from dotmac_api.vault import EncryptionKeyMissing, Undecryptable

log = logging.getLogger(__name__)
SMTP_SECONDS = 20.0


async def smtp_client(store: SettingsStore) -> aiosmtplib.SMTP | None:
    """A client of the server that is set, to be used as a context; None when none is. Raises Undecryptable."""
    host = await store.text("notifications", "smtp_host")
    if not host:
        return None
    security = await store.text("notifications", "smtp_security")
    return aiosmtplib.SMTP(
        hostname=host,
        port=await store.integer("notifications", "smtp_port"),
        username=await store.text("notifications", "smtp_username") or None,
        password=await store.text("notifications", "smtp_password") or None,
        use_tls=security == "tls",
        start_tls=security == "starttls",
        timeout=SMTP_SECONDS,
    )


async def send_mail(store: SettingsStore, to: str, subject: str, text: str) -> bool:
    """Send one message; False (and a log line without its text) when no server is set or it refuses."""
    try:
        client = await smtp_client(store)
        if client is None:
            log.warning("no mail is sent: set notifications.smtp_host")
            return False
        message = EmailMessage()
        message["From"] = await store.text("notifications", "smtp_from")
        message["To"] = to
        message["Subject"] = subject
        message.set_content(text)
        async with client:
            await client.send_message(message)
    except (aiosmtplib.SMTPException, OSError, Undecryptable, EncryptionKeyMissing) as error:
        log.error("the mail server took no mail: %s", type(error).__name__)
        return False
    return True
