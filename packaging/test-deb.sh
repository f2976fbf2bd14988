#!/usr/bin/env bash
# Builds the Debian package from binaries that are already built, installs it in a chroot of this Debian
# release, and lets the installed daemon take and deliver a mail (packaging/deb_steps.py). Nothing outside
# the chroot is touched: the steps run in namespaces of their own, without network.
#
#   packaging/test-deb.sh [DIRECTORY_WITH_THE_BINARIES]      default: target/release, else target/debug
#
# Needs root, debootstrap, python3 and cargo-deb (installed when missing). Where it cannot run it says so
# and passes; with POSTERN_REQUIRE_PEERS=1 it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "test-deb: $1: skipped"
    [ "${POSTERN_REQUIRE_PEERS:-0}" != 1 ]
    exit
}

[ "$(id -u)" = 0 ] || skip "not root"
for program in debootstrap python3 unshare dpkg-deb; do
    command -v "$program" >/dev/null || skip "$program is not installed"
done
unshare --net --mount --pid --fork true 2>/dev/null || skip "no namespaces here"

# The shipped configuration takes no mail below `queue.min_free_space`.
free=$(df --output=avail --block-size=M "${TMPDIR:-/tmp}" | tail -n 1 | tr -dc 0-9)
[ "$free" -ge 1500 ] || {
    echo "test-deb: FAILED: $free MiB are free in ${TMPDIR:-/tmp}: the chroot and the installed server need 1500"
    exit 1
}

binaries=${1:-}
for candidate in target/release target/debug; do
    [ -n "$binaries" ] || [ ! -x "$candidate/posternd" ] || [ ! -x "$candidate/posternctl" ] || binaries=$candidate
done
[ -x "$binaries/posternd" ] && [ -x "$binaries/posternctl" ] || {
    echo "test-deb: no binaries in ${binaries:-target}: run cargo build first"
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

# cargo-deb takes the binaries from the release folder of the target directory.
cargo deb --version >/dev/null 2>&1 || cargo install --quiet --locked --debug cargo-deb
mkdir -p "$work/target/release"
cp "$binaries/posternd" "$binaries/posternctl" "$work/target/release/"
CARGO_TARGET_DIR="$work/target" cargo deb --quiet --no-build --strip --fast --output "$work/postern.deb" >/dev/null
echo "test-deb: ok: built $(dpkg-deb --show --showformat='${Package} ${Version} ${Architecture}' "$work/postern.deb")"

if command -v lintian >/dev/null; then
    lintian --allow-root --fail-on error "$work/postern.deb" >"$work/lintian.log" 2>&1 || {
        cat "$work/lintian.log"
        echo "test-deb: FAILED: lintian"
        exit 1
    }
    echo "test-deb: ok: lintian finds no error"
fi

# The release of this machine, from the mirror that this machine uses.
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror() (
    set +o pipefail # a folder that is missing is no failure
    # deb822 stanzas: the first whose Suites name our release.
    find /etc/apt/sources.list.d -name '*.sources' -exec cat {} + 2>/dev/null | awk -v suite="$suite" '
        function finish() { if (uri != "" && found && !printed) { print uri; printed = 1 } uri = ""; found = 0 }
        /^[[:space:]]*$/ || /^Types:/ { finish() }
        /^URIs:/ { uri = $2 }
        /^Suites:/ { for (i = 2; i <= NF; i++) if ($i == suite) found = 1 }
        END { finish() }'
    # Lines: deb [options] URI SUITE COMPONENTS.
    find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -exec cat {} + 2>/dev/null | awk -v suite="$suite" '
        $1 == "deb" { sub(/\[[^]]*\]/, ""); if ($3 == suite) { print $2; exit } }'
)

base=${XDG_CACHE_HOME:-$HOME/.cache}/postern-chroot/$suite-$(dpkg --print-architecture)
if [ ! -e "$base.complete" ]; then
    uri=$(mirror | head -n 1)
    [ -n "$uri" ] || skip "no mirror for '$suite' in /etc/apt"
    rm -rf --one-file-system "$base"
    mkdir -p "$base"
    # The dependencies of the package come with it, so that installing it needs no network.
    if ! debootstrap --variant=minbase --include=systemd,ca-certificates "$suite" "$base" "$uri" >"$work/debootstrap.log" 2>&1; then
        tail -n 20 "$work/debootstrap.log"
        echo "test-deb: debootstrap failed"
        exit 1
    fi
    touch "$base.complete"
fi
cp -a --reflink=auto "$base" "$work/root"
cp "$work/postern.deb" "$work/root/postern.deb"
echo "test-deb: ok: a chroot of $suite"

# --kill-child: whatever the steps started ends with them; their mounts go with their namespace.
unshare --net --mount --pid --fork --kill-child python3 packaging/deb_steps.py "$work/root"
