# shellcheck shell=bash
# How the commands of deploy/ talk, and where the checkout is. Sourced first.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
state=$root/.local

say() {
    printf '\033[1m==\033[0m %s\n' "$*" >&2
}

# fail STATUS WHAT: which part, why, and what to do.
fail() {
    local status=$1
    shift
    printf '\n%s: %s\n' "${0##*/}" "$*" >&2
    exit "$status"
}

# One setup at a time in one checkout: a second one waits instead of writing into the same .venv.
with_setup_lock() {
    mkdir -p "$state" || fail 1 "cannot write to $state; the checkout must belong to the user who runs this"
    exec 9> "$state/setup.lock"
    if ! flock -n 9; then
        say "another run is setting up this checkout; waiting for it"
        flock 9
    fi
    "$@"
    exec 9>&-
}
