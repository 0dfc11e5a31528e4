# What all machines do first, and what several steps share.

t_modules() {
    for m in loop fuse nbd dm_mod dm_flakey; do
        [ -d /sys/module/$m ] || { echo "module $m is not there"; return 1; }
    done
}

# The file system below all images.
t_storage() {
    mkfs.ext4 -q -F /dev/vda
    mount -t ext4 /dev/vda /disk
    grep -q ' /disk ext4 ' /proc/mounts
}

# fio writes and verifies on a mounted file system.
exercise() {
    fio --name=verify --filename=$1/data --size=${2:-24M} --rw=randwrite --bsrange=4k-64k \
        --ioengine=psync --verify=crc32c --do_verify=1 --verify_fatal=1 --fsync=64 \
        --end_fsync=1 --randseed=7 --output=/tmp/fio || { cat /tmp/fio; return 1; }
}

new_disk() {
    mkdir -p /disk/$1
    ploop init -s ${2:-256M} -t none /disk/$1/root.hds
}

fs_on() {
    mkfs.ext4 -q -F $1
    mount -t ext4 $1 /mnt
    exercise /mnt
    umount /mnt
    e2fsck -f -n $1
}

# Flush requests that a disk has ended.
flushes() {
    ploop stat --prometheus $1 | grep '^ploop_requests_total.*op="flush"' |
        awk '{ n += $NF } END { print n + 0 }'
}

server_of() { ploop list --json | tr ',{' '\n\n' | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' | head -n 1; }

# Data that stays in the requests' own memory: allocated, overwritten, read from holes, from
# below a snapshot and beside one.
t_ublk_zero() {
    new_disk zero
    if ! dev=$(ploop attach --via ublk-zero-copy --queues 2 /disk/zero 2>/tmp/why); then
        cat /tmp/why
        grep 'has no zero copy' /tmp/why
        echo "note: no zero copy in this kernel"
        return
    fi
    dd if=$dev bs=1M count=8 skip=100 iflag=direct | cmp -n 8388608 - /dev/zero
    fs_on $dev
    # Zeros take no cluster.
    used=$(du -k /disk/zero/root.hds | cut -f1)
    dd if=/dev/zero of=$dev bs=1M count=16 seek=200 oflag=direct
    [ $(($(du -k /disk/zero/root.hds | cut -f1) - used)) -lt 8192 ]
    mount -t ext4 $dev /mnt
    before=$(sha256sum < /mnt/data)
    ploop snapshot /disk/zero
    [ "$(sha256sum < /mnt/data)" = "$before" ]
    exercise /mnt
    umount /mnt
    e2fsck -f -n $dev
    # Half a cluster over a lower one: a copy-up around the request's memory.
    dd if=/dev/urandom of=/tmp/some bs=64k count=9
    dd if=/tmp/some of=$dev bs=64k count=9 seek=160 oflag=direct
    dd if=$dev bs=64k count=9 skip=160 iflag=direct | cmp - /tmp/some
    ploop detach /disk/zero
    ploop check -f /disk/zero
    dev=$(ploop attach --via loop --ro /disk/zero)
    dd if=$dev bs=64k count=9 skip=160 | cmp - /tmp/some
    ploop detach /disk/zero
}

busy() { awk '/^cpu /{print $2 + $3 + $4 + $7 + $8}' /proc/stat; }

# System calls of a process so far, of all its threads.
calls_of() {
    hist=/sys/kernel/tracing/events/raw_syscalls/sys_enter/hist
    [ -e $hist ] || { echo 0; return; }
    sed -n 's/.*common_pid: *\([0-9]*\) *} *hitcount: *\([0-9]*\).*/\1 \2/p' $hist |
        while read -r tid hits; do [ ! -d /proc/$1/task/$tid ] || echo $hits; done |
        awk '{n += $1} END {print n + 0}'
}
