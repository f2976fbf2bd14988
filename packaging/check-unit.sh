#!/usr/bin/env bash
# Checks the systemd unit: it parses, and its exposure by `systemd-analyze security` is at most 1.5 of 10.
# Where systemd is not installed this says so and passes; with POSTERN_REQUIRE_PEERS=1 it fails.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v systemd-analyze >/dev/null; then
    echo "check-unit: systemd-analyze is not installed: skipped"
    [ "${POSTERN_REQUIRE_PEERS:-0}" != 1 ]
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# `verify` insists on programs and units that exist: it looks at a copy in a root of its own.
mkdir -p "$work/usr/sbin" "$work/bin" "$work/etc/systemd/system" "$work/usr/lib/systemd"
install -m 755 /bin/true "$work/usr/sbin/posternd"
install -m 755 /bin/true "$work/bin/kill"
cp systemd/postern.service "$work/etc/systemd/system/"
for unit in /usr/lib/systemd /lib/systemd; do
    [ -d "$unit/system" ] && cp -r "$unit/system" "$work/usr/lib/systemd/" && break
done
# It warns about other units of the machine too: only lines about ours count.
problems=$(systemd-analyze verify --man=no --root="$work" postern.service 2>&1 | grep -F postern.service || true)
if [ -n "$problems" ]; then
    printf 'check-unit: the unit does not verify:\n%s\n' "$problems"
    exit 1
fi
echo "check-unit: ok: the unit verifies"

# The threshold is in tenths.
if ! report=$(systemd-analyze security --no-pager --offline=true --threshold=15 systemd/postern.service 2>&1); then
    printf '%s\ncheck-unit: the exposure is over 1.5\n' "$report"
    exit 1
fi
echo "check-unit: ok:$(printf '%s\n' "$report" | tail -1 | sed 's/^[^A-Za-z]*Overall/ overall/')"
