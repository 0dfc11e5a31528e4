#!/usr/bin/env bash
# Component: QEMU's block driver `parallels`, QEMU 10.0.2 (Debian 13 and its backport).
# Common guess: writing zeros without the unmap flag keeps the space allocated (that is what the
#   flag is for), as QEMU's own qcow2 and raw drivers do.
# Behaviour: the cluster leaves the block table and its space is punched out of the file, with and
#   without the flag. A preallocated disk becomes thin by being wiped.
# Who is hurt: whoever preallocates such a disk to be sure of its space, and then wipes a part of it.
set -euo pipefail
want=10.0.2
version=$(qemu-img --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
[ "$version" = "$want" ] || { echo "seen with QEMU $want, this is $version"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo "QEMU $version"
for format in parallels qcow2 raw; do
    qemu-img create -q -f $format disk 8M
    qemu-io -f $format -c 'write -q -P 17 0 8M' disk >/dev/null
    sync
    full=$(stat -c %b disk)
    qemu-io -f $format -c 'write -q -z 2M 4M' disk >/dev/null
    sync
    given=$(((full - $(stat -c %b disk)) / 2048))
    present=$(qemu-img map -f $format --output=json disk | python3 -c '
import json, sys
print(sum(e["length"] for e in json.load(sys.stdin) if e.get("present")) >> 20)')
    echo "$format: $present MiB of 8 still allocated, $given MiB given back to the host"
    rm disk
done | tee seen
cat >expected <<'WANT'
parallels: 4 MiB of 8 still allocated, 4 MiB given back to the host
qcow2: 8 MiB of 8 still allocated, 0 MiB given back to the host
raw: 8 MiB of 8 still allocated, 0 MiB given back to the host
WANT
diff expected seen || { echo "the behaviour has changed"; exit 1; }
