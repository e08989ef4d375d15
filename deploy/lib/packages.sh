# shellcheck shell=bash
# shellcheck disable=SC2154 # state comes from say.sh
# Debian and Ubuntu packages. Needs say.sh.

# as_root COMMAND...: by sudo where this is not root; fails with the command to run otherwise.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        fail 2 "needs root for: $* (no sudo here). Run that as root, then this command again."
    fi
}

# apt_get ARGUMENTS...: waits up to 5 minutes for whoever holds apt's locks (unattended-upgrades after boot).
apt_get() {
    local log tries=60
    log=$(mktemp)
    while ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" > "$log" 2>&1; do
        if ! grep -q 'Could not get lock' "$log" || [ $((tries -= 1)) -le 0 ]; then
            tail -n 15 "$log" >&2
            rm -f "$log"
            return 1
        fi
        [ "$tries" != 59 ] || say "another program uses apt; waiting for it"
        sleep 5
    done
    rm -f "$log"
}

# install_packages "PROGRAM PACKAGE why" ...: installs the packages whose program is missing. Services that come with
# them are neither started nor enabled: an sshd or Docker that the owner of this machine did not ask for stays off.
install_packages() {
    local entry program package why missing=() fresh_services=()
    for entry in "$@"; do
        read -r program package why <<< "$entry"
        if ! PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin" command -v "$program" > /dev/null; then
            say "missing: $program (package $package), $why"
            missing+=("$package")
            case $package in
                openssh-server) fresh_services+=(ssh.service ssh.socket) ;;
                postgresql) fresh_services+=(postgresql.service) ;;
                redis-server) fresh_services+=(redis-server.service) ;;
                docker.io) fresh_services+=(docker.service docker.socket containerd.service) ;;
            esac
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null \
        || fail 1 "missing ${missing[*]}, and this is neither Debian nor Ubuntu. Install them, then run this again."
    say "installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy > /dev/null
        as_root chmod 755 $policy
        made_policy=yes
    fi
    local failed=
    apt_get update -q || say "apt-get update failed; trying with the lists there are"
    apt_get install -qy --no-install-recommends "${missing[@]}" || failed=yes
    [ -z "$made_policy" ] || as_root rm -f $policy
    [ -z "$failed" ] || fail 1 "could not install ${missing[*]} (see above). Is a mirror in reach? Install them by hand, then run this again."
    if [ -d /run/systemd/system ]; then
        # One by one: not every release has every unit.
        for entry in "${fresh_services[@]+"${fresh_services[@]}"}"; do
            as_root systemctl disable --quiet "$entry" 2> /dev/null || true
        done
    fi
}

# unpack_promtool: the checker of alert rules, out of Debian's package `prometheus` into .local/bin. The package is not
# installed: its daemon, its user and its unit are nobody's wish here.
unpack_promtool() {
    local folder package
    if command -v promtool > /dev/null || [ -x "$state/bin/promtool" ]; then
        return 0
    fi
    command -v apt-get > /dev/null || return 1
    say "missing: promtool (from package prometheus, which is not installed), it checks the alert rules"
    folder=$(mktemp -d)
    if (
        cd "$folder" \
            && { apt-get -qq download prometheus 2> /dev/null || { apt_get update -q && apt-get -qq download prometheus; }; } \
            && package=$(find . -name 'prometheus_*.deb') \
            && dpkg-deb --fsys-tarfile "$package" | tar -x ./usr/bin/promtool \
            && mkdir -p "$state/bin" \
            && mv usr/bin/promtool "$state/bin/promtool"
    ) > /dev/null 2>&1; then
        rm -rf "$folder"
    else
        rm -rf "$folder"
        return 1
    fi
}

# package_exists NAME: whether apt could install it.
package_exists() {
    apt-cache show "$1" > /dev/null 2>&1
}
