# shellcheck shell=bash
# shellcheck disable=SC2154 # root and state come from say.sh
# Python 3.12 or 3.13, Poetry, and the locked dependencies in .venv. Needs say.sh and packages.sh.

# A Python is good when it is 3.12 or 3.13 and can make environments with pip.
good_python() {
    "$1" -c 'import sys, venv, ensurepip, ssl, sqlite3; sys.exit(sys.version_info[:2] not in ((3, 12), (3, 13)))' \
        > /dev/null 2>&1
}

# find_python: prints the path of a good one; fails silently when there is none.
find_python() {
    local candidate version
    for candidate in "${PYTHON:-}" python3.12 python3.13 python3 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23].*/bin/python /root/.pyenv/versions/3.1[23].*/bin/python \
        /usr/local/bin/python3.1[23] /opt/python*/bin/python3.1[23] \
        "$HOME"/.local/share/uv/python/*/bin/python3.1[23] "$state"/python/*/bin/python3.1[23]; do
        if [ -n "$candidate" ] && good_python "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    if command -v uv > /dev/null; then
        for version in 3.12 3.13; do
            candidate=$(uv python find "$version" 2> /dev/null) || continue
            if good_python "$candidate"; then
                printf '%s\n' "$candidate"
                return 0
            fi
        done
    fi
    return 1
}

# Debian 12 has only 3.11: from apt where it has 3.12 (Ubuntu 24.04), else by uv, kept under .local/.
install_python() {
    if package_exists python3.12-venv; then
        install_packages "python3.12 python3.12 this project is written in Python 3.12"
        good_python python3.12 || { say "installing python3.12-venv"; apt_get install -qy python3.12-venv || true; }
        find_python && return 0
    fi
    say "no Python 3.12 or 3.13 on this machine; fetching one with uv into .local/python (this machine's own stays as it is)"
    command -v python3 > /dev/null || install_packages "python3 python3 needed to fetch Python 3.12"
    if ! command -v uv > /dev/null; then
        python3 -m venv "$state/uv" 2> /dev/null \
            || { apt_get install -qy --no-install-recommends python3-venv && python3 -m venv "$state/uv"; } \
            || return 1
        "$state/uv/bin/pip" install -q uv >&2 || return 1
    fi
    UV_PYTHON_INSTALL_DIR=$state/python PATH="$PATH:$state/uv/bin" uv python install --no-bin 3.12 >&2 || return 1
    find_python
}

# Poetry with its export plug-in: one on PATH that has it, else our own under .local/poetry.
find_poetry() {
    poetry=$(command -v poetry || true)
    if [ -n "$poetry" ] && "$poetry" export --help > /dev/null 2>&1; then
        return 0
    fi
    poetry=$state/poetry/bin/poetry
    if ! "$poetry" export --help > /dev/null 2>&1; then
        say "installing Poetry into .local/poetry (none with poetry-plugin-export on PATH)"
        rm -rf "$state/poetry"
        "$python" -m venv "$state/poetry"
        mkdir -p "$state/log"
        "$state/poetry/bin/python" -m pip install -q --disable-pip-version-check 'poetry>=2.1,<3' 'poetry-plugin-export>=1.9' \
            > "$state/log/poetry.log" 2>&1 || {
            tail -n 5 "$state/log/poetry.log" >&2
            fail 1 "Poetry could not be installed (see above). Is a package index in reach of pip? (PIP_INDEX_URL, https_proxy)"
        }
    fi
}

# The locked versions, by hash. `poetry install` asks the index for JSON, which some mirrors do not have: then the same
# versions go through the simple index, which every mirror has.
install_locked() {
    local log=$state/log/install.log wanted
    mkdir -p "$state/log"
    if "$poetry" install --no-interaction --all-groups > "$log" 2>&1; then
        return 0
    fi
    say "poetry install failed ($(grep -m 1 -oE 'Unable to find.*|[A-Za-z]+Error.*' "$log" | head -c 90 || true)); trying the same locked versions with pip"
    wanted=$(mktemp)
    if ! { "$poetry" export -q --all-groups --format requirements.txt --output "$wanted" \
        && "$root/.venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --requirement "$wanted" \
        && "$poetry" install --no-interaction --only-root; } >> "$log" 2>&1; then
        rm -f "$wanted"
        tail -n 12 "$log" >&2
        fail 1 "the locked dependencies could not be installed (see above; all of it in $log). Is a package index in reach?"
    fi
    rm -f "$wanted"
}

set_up_python() {
    local stamp python poetry
    cd "$root" || return
    # HOME of a pipeline or a service may be unset.
    export HOME=${HOME:-/root}
    # An environment of somebody else, active in this shell, must not be the one that is filled.
    unset VIRTUAL_ENV PYTHONHOME PYTHONPATH
    export POETRY_VIRTUALENVS_IN_PROJECT=true POETRY_VIRTUALENVS_CREATE=true PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring
    stamp=$(sha256sum poetry.lock pyproject.toml | sha256sum)
    if [ "$(cat .venv/installed 2> /dev/null)" = "$stamp" ] && good_python .venv/bin/python; then
        return 0
    fi
    python=$(find_python || install_python) || fail 1 "no Python 3.12 or 3.13 with venv found (looked at \$PYTHON, PATH, pyenv, /usr/local, /opt, uv), and none could be fetched. Install one, for instance: apt-get install python3.12-venv, pyenv install 3.12, or uv python install 3.12."
    say "installing the locked dependencies into .venv with $("$python" --version) ($python)"
    good_python .venv/bin/python || rm -rf .venv
    [ -d .venv ] || "$python" -m venv .venv
    find_poetry
    install_locked
    printf '%s\n' "$stamp" > .venv/installed
}
