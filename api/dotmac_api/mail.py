"""E-mail through the SMTP server that the notifications settings name."""

import logging
from email.message import EmailMessage

import aiosmtplib

from dotmac_api.domains.store import SettingsStore

log = logging.getLogger(__name__)
SMTP_SECONDS = 20.0


async def send_mail(store: SettingsStore, to: str, subject: str, text: str) -> bool:
    """Send one message; False (and a log line without its text) when no server is set or it refuses."""
    host = await store.text("notifications", "smtp_host")
    if not host:
        log.warning("no mail is sent: set notifications.smtp_host")
        return False
    message = EmailMessage()
    message["From"] = await store.text("notifications", "smtp_from")
    message["To"] = to
    message["Subject"] = subject
    message.set_content(text)
    security = await store.text("notifications", "smtp_security")
    try:
        await aiosmtplib.send(
            message,
            hostname=host,
            port=await store.integer("notifications", "smtp_port"),
            username=await store.text("notifications", "smtp_username") or None,
            password=await store.text("notifications", "smtp_password") or None,
            use_tls=security == "tls",
            start_tls=security == "starttls",
            timeout=SMTP_SECONDS,
        )
    except (aiosmtplib.SMTPException, OSError) as error:
        log.error("the mail server %s took no mail: %s", host, type(error).__name__)
        return False
    return True
