#!/usr/bin/env bash
# Component: loop driver of Linux 6.18 with losetup (util-linux 2.38), backing file on XFS.
#   Needs root, xfsprogs, two loop devices.
# Common guess: `losetup --direct-io=on FILE` gives a device with 512-byte sectors unless --sector-size
#   says otherwise, and asking for 512 keeps direct I/O on.
# Behaviour: the sector size follows the file's direct-I/O alignment of the moment. After a plain
#   reflink copy of the file (what `cp` does on XFS by default) the very same command on the very
#   same file gives 4096-byte sectors, and of its partition table only the
#   protective record is found. With
#   `--sector-size 512` the device has 512-byte sectors, and direct I/O is silently off (exit 0).
# Who is hurt: whoever attaches disk images through loop with direct I/O after backups by cp.
set -euo pipefail
case $(uname -r) in 6.18.*) ;; *) echo "seen on Linux 6.18, this is $(uname -r)"; exit 2 ;; esac
dir=$(mktemp -d)
loop=
trap '[ -z "$loop" ] || losetup -d "$loop"; umount "$dir/m" 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
truncate -s 512M fs.img && mkdir m
mkfs.xfs -q -m reflink=1 fs.img && mount -o loop fs.img m
dd if=/dev/zero of=m/disk bs=1M count=64 conv=fsync status=none
printf 'label: gpt\nsize=32M\n' | sfdisk -q m/disk
sync

state() { # WORDS [losetup options]: one line about the device that losetup makes
    local words=$1
    shift
    loop=$(losetup -f --show --direct-io=on "$@" m/disk)
    local sys=/sys/block/${loop#/dev/}
    local table
    table=$(blkid -p -o value -s PTTYPE "$loop" || true)
    echo "$words: sectors $(cat "$sys/queue/logical_block_size"), direct I/O $(cat "$sys/loop/dio"), table $table"
    losetup -d "$loop"
    loop=
}
echo "Linux $(uname -r | cut -d. -f1,2), $(losetup --version)"
{
    state "before the copy"
    cp --reflink=always m/disk m/backup
    state "after the copy"
    state "after the copy, --sector-size 512" --sector-size 512
} | tee seen
cat >want <<'WANT'
before the copy: sectors 512, direct I/O 1, table gpt
after the copy: sectors 4096, direct I/O 1, table PMBR
after the copy, --sector-size 512: sectors 512, direct I/O 0, table gpt
WANT
diff want seen || { echo "the behaviour has changed"; exit 1; }
