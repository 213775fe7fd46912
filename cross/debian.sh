# For scripts that source it: Debian's packages, fetched and unpacked as any user; nothing is installed. The caller has
# set `cache`, a folder of its own, and runs with `set -euo pipefail`.
# shellcheck shell=bash disable=SC2154

# The machine's own apt needs to know nothing of ARM, so lists of packages are kept in a private place. $1: the other
# architecture; arm64 without it. Never both: a mirror whose lists fail for one would take the other's with it.
apt_begin() {
    command -v apt-get >/dev/null || { echo "$0: no apt-get on this machine" >&2; return 1; }
    apt=$cache/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    cat >"$apt/apt.conf" <<CONF
APT::Architectures { "amd64"; "${1:-arm64}"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Debug::NoLocking "1";
Dir::Cache "$apt";
Dir::Cache::Archives "$apt/archives";
Dir::State::Lists "$apt/lists";
CONF
    export APT_CONFIG=$apt/apt.conf
    apt-get -qq update || echo "$0: some package lists could not be read; going on with the others" >&2
}

# Fetches packages with those that they need and the machine lacks.
apt_fetch() {
    apt-get -qq install --download-only --reinstall --no-install-recommends -y "$@"
}

# Fetches these packages alone, such as those of another architecture.
apt_fetch_alone() {
    (cd "$apt/archives" && apt-get -qq download "$@")
}

# $1: an empty folder for what was fetched.
apt_unpack() {
    local deb
    rm -rf "$1"
    mkdir -p "$1"
    for deb in "$apt"/archives/*.deb; do
        dpkg-deb -x "$deb" "$1"
    done
    rm -f "$apt"/archives/*.deb
}

apt_end() {
    rm -rf "$apt"
}

# Writes a script that runs an unpacked program with its libraries. $1: the script; $2: the root; $3: the program and
# its first arguments.
wrap() {
    local script=$1 root=$2
    shift 2
    [ -x "$1" ] || return 0
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec' "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" >"$script"
    printf ' %q' "$@" >>"$script"
    printf ' "$@"\n' >>"$script"
    chmod +x "$script"
}
