"""What the operator knows about PostgreSQL and Redis images: constant commands, with every value in the environment.

The scripts below are constants. No value is ever put into them; they read the environment.
"""

from collections.abc import Mapping

from dotmac_operator.core import names
from dotmac_operator.core.container import ContainerSpec, EnvValue, ExecCheck

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

# Nothing that is there is touched before the dump is known to be whole and was read in completely, into a database
# beside it. Then one transaction changes the names. The displaced database stays, with what was written since the dump,
# until the next restore. The same restore once more finds its displaced database and does nothing. What fails with 65
# or 75, or before it says that it exchanges, has exchanged nothing; of any other failure only the next run knows.
RESTORE_COMMAND = (
    "sh",
    "-c",
    r"""set -eu
cd "$BACKUP_DIRECTORY"
sql() {
    psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --set=database="$RESTORE_DATABASE" \
        --set=fresh="${RESTORE_DATABASE}_restoring" --set=displaced="$RESTORE_DISPLACED" \
        --set=others="$RESTORE_DATABASE"'\_before\_%' --file=- "$@"
}
if [ "$(echo "SELECT 1 FROM pg_database WHERE datname = :'displaced'" | sql)" = 1 ]; then
    echo "dotmac-restore: done before"
    exit 0
fi
printf '%s  %s\n' "$BACKUP_SHA256" "$BACKUP_FILE" | sha256sum --check --status || {
    echo "the checksum of $BACKUP_FILE is not the recorded one, or it is gone: nothing was changed" >&2
    exit 65
}
echo 'DROP DATABASE IF EXISTS :"fresh"' | sql
echo 'CREATE DATABASE :"fresh" TEMPLATE template0' | sql
pg_restore --exit-on-error --dbname="${RESTORE_DATABASE}_restoring" "$BACKUP_FILE"
echo "dotmac-restore: exchanging"
tries=0
until printf '%s\n' "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :'database';" \
    'ALTER DATABASE :"database" RENAME TO :"displaced";' \
    'ALTER DATABASE :"fresh" RENAME TO :"database";' | sql --single-transaction > /dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -ge 5 ]; then
        found=$(echo "SELECT 1 FROM pg_database WHERE datname = :'displaced'" | sql)
        [ "$found" = 1 ] || exit 75
        break
    fi
    sleep 1
done
echo "SELECT datname FROM pg_database WHERE datname LIKE :'others' AND datname <> :'displaced'" | sql |
    while read -r old; do echo 'DROP DATABASE IF EXISTS :"old"' | sql --set=old="$old"; done || true
echo "dotmac-restore: done"
""",
)


def client(server: ContainerSpec, name: str = NAME) -> Mapping[str, EnvValue]:
    """Environment by which PostgreSQL's programs reach the database `name` of a tenant's server from its network."""
    return {
        "PGHOST": names.DATABASE,
        "PGUSER": USER,
        "PGDATABASE": name,
        "PGPASSWORD": server.env["POSTGRES_PASSWORD"],
    }
