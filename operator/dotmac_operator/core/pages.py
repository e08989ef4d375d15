"""What the proxy answers in place of a tenant that does not run. Constant: no word of a tenant goes in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """One static answer."""

    name: str
    status: int
    """HTTP status code."""
    retry_after: int
    """Seconds for the header Retry-After; 0: none."""
    title: str
    text: str

    @property
    def body(self) -> str:
        # No braces in it: Caddy would take what is between them for a placeholder.
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="robots" content="noindex"><title>{self.title}</title></head>'
            '<body style="font-family: sans-serif; max-width: 34em; margin: 15vh auto; padding: 0 1em">'
            f"<h1>{self.title}</h1><p>{self.text}</p></body></html>"
        )


SUSPENDED = Page(
    "Suspended",
    503,
    3600,
    "This service is suspended",
    "Your data is safe. Please ask whoever runs this service for you.",
)
# 410 rather than 404: the address is right. It is never cached, because the tenant may come back.
ARCHIVED = Page(
    "Archived", 410, 0, "This service is archived", "Your data is kept. Please ask whoever runs this service for you."
)
UPDATING = Page(
    "Updating", 503, 30, "This service is being updated", "It will be back in a moment. Please try again then."
)
RESTORING = Page(
    "Restoring", 503, 60, "This service is being restored", "Your data of an earlier time is put back. Please wait."
)
PAGES = {page.name: page for page in (SUSPENDED, ARCHIVED, UPDATING, RESTORING)}
