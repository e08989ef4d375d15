"""What the operator knows about PostgreSQL and Redis images: constant commands, with every value in the environment.

The scripts below are constants. No value is ever put into them; they read the environment.
"""

from dotmac_operator.core.container import ExecCheck

USER = "erp"
NAME = "erp"
POSTGRES_PORT = 5432
REDIS_PORT = 6379
BACKUPS_KEPT = 5

# Over TCP, because the first start of the well-known images serves the UNIX socket before the database is complete.
POSTGRES_CHECK = ExecCheck(
    ("CMD-SHELL", 'pg_isready -q -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB"'), retries=24
)
REDIS_CHECK = ExecCheck(("CMD-SHELL", "redis-cli ping | grep -q PONG"), retries=12)

# The password reaches the server by its standard input, never by argv.
REDIS_COMMAND = (
    "sh",
    "-c",
    'exec redis-server - <<CONFIG\nrequirepass $REDIS_PASSWORD\nsave ""\nappendonly no\ndir /tmp\nCONFIG\n',
)

# Mounted at the image's own data path, because that directory exists in the image with the owner that the server
# runs as, so that a fresh named volume is writable for it.
BACKUP_COMMAND = (
    "sh",
    "-c",
    """set -eu
umask 077
cd "$BACKUP_DIRECTORY"
rm -f ./*.part
pg_dump --format=custom --file="$BACKUP_FILE.part"
pg_restore --list "$BACKUP_FILE.part" >/dev/null
sum=$(sha256sum "$BACKUP_FILE.part" | cut -d ' ' -f 1)
size=$(wc -c < "$BACKUP_FILE.part")
printf '%s  %s\\n' "$sum" "$BACKUP_FILE" > "$BACKUP_FILE.sha256"
mv "$BACKUP_FILE.part" "$BACKUP_FILE"
sync
ls -t -- *.dump | tail -n +"$((BACKUPS_KEPT + 1))" | while read -r old; do rm -f -- "$old" "$old.sha256"; done
printf 'dotmac-backup sha256=%s size=%s\\n' "$sum" "$size"
""",
)
