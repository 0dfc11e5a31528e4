#!/usr/bin/env bash
# Component: ext4, btrfs and xfs of Linux 6.18 with fstrim (util-linux). Needs root, loop devices,
#   e2fsprogs, btrfs-progs, xfsprogs.
# Common guess: `rm BIG && fstrim MOUNT` gives the blocks of BIG back to the device, and the number
#   that fstrim prints is what was given back.
# Behaviour: on ext4 and btrfs nothing of BIG comes back: its blocks are pinned by the transaction
#   that is not committed yet. fstrim ends with 0 and prints over a gigabyte all the same. After
#   `sync` the same command gives all of it back. On xfs it comes back without a sync.
# Who is hurt: jobs that delete, trim and then measure or shrink a thin disk.
set -euo pipefail
case $(uname -r) in 6.18.*) ;; *) echo "seen on Linux 6.18, this is $(uname -r)"; exit 2 ;; esac
dir=$(mktemp -d)
trap 'umount "$dir"/*.m 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
echo "Linux $(uname -r | cut -d. -f1,2), $(fstrim --version)"
for fs in ext4 btrfs xfs; do
    truncate -s 1536M $fs.img && mkdir $fs.m
    "mkfs.$fs" -q $fs.img >/dev/null 2>&1
    mount -o loop $fs.img $fs.m
    dd if=/dev/urandom of=$fs.m/big bs=1M count=400 conv=fsync status=none
    sync
    used() { echo $(($(stat -c %b $fs.img) / 2048)); }
    before=$(used)
    rm $fs.m/big
    printed=$(fstrim -v $fs.m)
    first=$((before - $(used)))
    sync
    fstrim $fs.m
    sync
    both=$((before - $(used)))
    echo "$fs: right after rm $((first > 200)), after sync $((both > 200)) (1: over 200 of 400 MiB came back)"
    echo "    (the first fstrim gave back $first MiB and said: ${printed#*: })" >&2
    umount $fs.m
done | tee seen
cat >want <<'WANT'
ext4: right after rm 0, after sync 1 (1: over 200 of 400 MiB came back)
btrfs: right after rm 0, after sync 1 (1: over 200 of 400 MiB came back)
xfs: right after rm 1, after sync 1 (1: over 200 of 400 MiB came back)
WANT
diff want seen || { echo "the behaviour has changed"; exit 1; }
