#!/bin/busybox sh
# Process 1 of the test machine, and its suite. A step is a function `t_NAME` and a line of STEPS;
# it fails when a command of it fails or its seconds are over. One line each on the console:
#   ok NAME SECONDS | not ok NAME SECONDS WHY | skip NAME WHY
export PATH=/usr/bin:/bin:/sbin HOME=/tmp LD_LIBRARY_PATH=/lib/x86_64-linux-gnu RUST_BACKTRACE=1

# name, seconds it may take, a file or directory it cannot do without
STEPS='
modules       60   /modules/order
storage       60   /dev/vda
loop_fs       240  /dev/loop-control
loop_busy     120  /dev/loop-control
resize_ext4   240  /dev/loop-control
resize_xfs    240  /dev/loop-control
nbd_client    240  /dev/nbd0
nbd_fs        240  /dev/nbd0
nbd_busy      120  /dev/nbd0
nbd_resize    120  /dev/nbd0
nbd_kill      300  /dev/nbd0
vhost_fs      240  /dev/vdb
vhost_trim    120  /dev/vdb
vhost_kill    240  /dev/vdb
vhost_grow    120  /dev/vdb
vhost_root    120  /dev/vdb
root          120  /on-disk
ublk_fs       240  /dev/ublk-control
ublk_grow     120  /dev/ublk-control
ublk_resize   120  /dev/ublk-control
ublk_info     120  /dev/ublk-control
ublk_trim     180  /dev/ublk-control
ublk_busy     120  /dev/ublk-control
ublk_reads    120  /dev/ublk-control
ublk_mount    180  /dev/ublk-control
ublk_zero     240  /dev/ublk-control
ublk_user     120  /dev/ublk-control
ublk_keep     120  /dev/ublk-control
ublk_kill     300  /dev/ublk-control
full_loop     180  /dev/loop-control
full_nbd      180  /dev/nbd0
full_ublk     180  /dev/ublk-control
ublk_figures  240  /dev/ublk-control
dm_linear     180  /dev/mapper/control
dm_flakey     240  /dev/mapper/control
dm_snapshot   240  /dev/mapper/control
luks          180  /dev/mapper/control
log_ext4      240  /dev/vdc
log_xfs       240  /dev/vdd
fallback      120  /dev/ublk-control
'

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

t_loop_fs() {
    new_disk loop
    dev=$(ploop attach --via loop /disk/loop)
    fs_on $dev
    ploop detach /disk/loop
    ploop check -f /disk/loop
}

t_loop_busy() {
    new_disk busy 64M
    dev=$(ploop attach --via loop /disk/busy)
    mkfs.ext4 -q -F $dev
    mount -t ext4 $dev /mnt
    if ploop detach /disk/busy; then echo "detached though mounted"; return 1; fi
    umount /mnt
    ploop detach /disk/busy
}

# The disk, its partition and the mounted file system grow while fio writes and verifies.
resized() {
    exercise /mnt 64M > /tmp/load 2>&1 &
    load=$!
    sleep 1
    ploop resize -s $2 /disk/$1
    kill -0 $load || { echo "the load was over before the resize was"; cat /tmp/load; return 1; }
    set -- $(df -k /mnt | tail -1) $3
    echo "$2 KiB of $7 wanted"
    [ $2 -gt $7 ]
    dd if=/dev/urandom of=/mnt/behind bs=1M count=$(($7 / 1024 * 3 / 4))
    sync
    wait $load || { cat /tmp/load; return 1; }
    umount /mnt
}

t_resize_ext4() {
    mkdir /disk/rext4
    ploop init -s 160M /disk/rext4/root.hds
    dev=$(ploop attach --via loop /disk/rext4)
    mount -t ext4 ${dev}p1 /mnt
    resized rext4 320M 260000
    e2fsck -f -n ${dev}p1
    ploop detach /disk/rext4
    ploop check -f /disk/rext4
}

t_resize_xfs() {
    new_disk rxfs 320M
    dev=$(ploop attach --via loop /disk/rxfs)
    mkfs.xfs -q $dev
    mount -t xfs $dev /mnt
    resized rxfs 480M 380000
    xfs_repair -n $dev
    ploop detach /disk/rxfs
    ploop check -f /disk/rxfs
}

# A partitioned disk on a device whose partitions the kernel finds itself: the table, the partition
# and its file system grow with the disk, mounted and not, and keep what is in them.
partition_resized() {
    mkdir /disk/$1
    ploop init -s 64M /disk/$1/root.hds
    dev=$(ploop attach --via $2 /disk/$1)
    mount -t ext4 ${dev}p1 /mnt
    dd if=/dev/urandom of=/tmp/some bs=1M count=4
    cp /tmp/some /mnt/some
    if ! ploop resize -s 96M /disk/$1 2>/tmp/why; then
        cat /tmp/why
        # A device that keeps its size: what the hint says works.
        grep 'detach and attach' /tmp/why
        umount /mnt
        ploop detach /disk/$1
        dev=$(ploop attach --via $2 /disk/$1)
        mount -t ext4 ${dev}p1 /mnt
        ploop resize -s 96M /disk/$1
        echo "note: the device grew when attached anew"
    fi
    grown_to ${dev}p1 $((94 << 11)) 80000
    dd if=/tmp/some of=/mnt/behind bs=1M count=4 conv=fsync
    umount /mnt
    e2fsck -f -n ${dev}p1
    if ! ploop resize -s 128M /disk/$1 2>/tmp/why; then
        grep 'detach and attach' /tmp/why
        ploop detach /disk/$1
        dev=$(ploop attach --via $2 /disk/$1)
        ploop resize -s 128M /disk/$1
    fi
    mount -t ext4 ${dev}p1 /mnt
    grown_to ${dev}p1 $((126 << 11)) 110000
    cmp /tmp/some /mnt/some
    cmp /tmp/some /mnt/behind
    umount /mnt
    e2fsck -f -n ${dev}p1
    ploop detach /disk/$1
    # The table is read anew from the disk.
    dev=$(ploop attach --via loop /disk/$1)
    [ "$(cat /sys/class/block/${dev#/dev/}p1/size)" = $((126 << 11)) ]
    ploop detach /disk/$1
    ploop check -f /disk/$1
}

# Sectors of the partition for the kernel, and at least so many KiB of the file system on it.
grown_to() {
    sectors=$(cat /sys/class/block/${1#/dev/}/size)
    set -- $2 $3 $(df -k /mnt | tail -1)
    echo "$sectors sectors, $1 wanted; $4 KiB, $2 wanted"
    [ $sectors = $1 ] && [ $4 -gt $2 ]
}

t_nbd_resize() { partition_resized nresize nbd; }

t_ublk_resize() { partition_resized uresize ublk; }

# A server in the foreground and the kernel's client on its socket.
t_nbd_client() {
    new_disk nbd
    ploop serve --nbd unix:/run/nbd.sock /disk/nbd/DiskDescriptor.xml >/tmp/serve 2>&1 &
    server=$!
    for n in $(seq 100); do [ -S /run/nbd.sock ] && break; sleep 0.2; done
    nbd-client -unix /run/nbd.sock /dev/nbd0 -b 512
    fs_on /dev/nbd0
    nbd-client -d /dev/nbd0
    kill -TERM $server
    wait $server || { cat /tmp/serve; return 1; }
    ploop check -f /disk/nbd
}

# The same client, attached by us: sockets for every queue, no handshake.
t_nbd_fs() {
    new_disk knbd
    dev=$(ploop attach --via nbd --queues 2 /disk/knbd)
    case $dev in /dev/nbd*) ;; *) echo "$dev"; return 1 ;; esac
    q=/sys/block/${dev#/dev/}/queue
    [ "$(blockdev --getsize64 $dev)" = $((256 << 20)) ]
    [ "$(cat $q/write_cache)" = 'write back' ]
    fs_on $dev
    ploop grow -s 300M /disk/knbd
    [ "$(blockdev --getsize64 $dev)" = $((300 << 20)) ]
    ploop list
    ploop detach /disk/knbd
    [ "$(blockdev --getsize64 $dev)" = 0 ]
    ploop check -f /disk/knbd
    dev=$(ploop attach --via nbd --ro /disk/knbd)
    [ "$(blockdev --getro $dev)" = 1 ]
    ploop detach /disk/knbd
}

t_nbd_busy() {
    new_disk nbusy 64M
    dev=$(ploop attach --via nbd /disk/nbusy)
    mkfs.ext4 -q -F $dev
    mount -t ext4 $dev /mnt
    if ploop detach /disk/nbusy; then echo "detached though mounted"; return 1; fi
    umount /mnt
    ploop detach /disk/nbusy
}

# The server is killed under fio on a mounted file system; the next attach gives the device new
# sockets, and fio verifies all it wrote. (Requests the dead one had wait 30 s for the kernel.)
t_nbd_kill() {
    new_disk nkill
    dev=$(ploop attach --via nbd --queues 2 /disk/nkill)
    mkfs.ext4 -q -F $dev
    mount -t ext4 $dev /mnt
    fio --name=verify --filename=/mnt/data --size=48M --rw=randwrite --bsrange=4k-64k \
        --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --fsync=32 --time_based --runtime=6 --output=/tmp/fio &
    fio=$!
    sleep 2
    kill -KILL $(server_of)
    if ploop attach --via loop /disk/nkill; then
        echo "a loop device beside one that waits"; return 1
    fi
    taken=$(ploop attach --via nbd --queues 2 /disk/nkill)
    [ "$taken" = "$dev" ]
    wait $fio || { cat /tmp/fio; return 1; }
    umount /mnt
    e2fsck -f -n $dev
    ploop detach /disk/nkill
    ploop check -f /disk/nkill
}

# The machine's second disk: served by the host, over vhost-user-blk.
t_vhost_fs() {
    [ "$(blockdev --getsize64 /dev/vdb)" = $((512 << 20)) ]
    [ "$(cat /sys/block/vdb/queue/write_cache)" = 'write back' ]
    [ "$(cat /sys/block/vdb/queue/discard_granularity)" = $((1 << 20)) ]
    grep '^ploop' /sys/block/vdb/serial
    fs_on /dev/vdb
}

t_vhost_trim() {
    mkfs.xfs -q -f /dev/vdb
    mount -t xfs /dev/vdb /mnt
    dd if=/dev/urandom of=/mnt/big bs=1M count=64 conv=fsync
    rm /mnt/big
    sync
    fstrim -v /mnt
    umount /mnt
    xfs_repair -n /dev/vdb
    blkdiscard -o 1048576 -l 8388608 /dev/vdb
    dd if=/dev/vdb bs=1M skip=1 count=8 iflag=direct | cmp -n 8388608 - /dev/zero
}

# fio writes and verifies on the second disk's file system, beside what the caller does.
verify_on_vdb() {
    mkfs.ext4 -q -F /dev/vdb
    mount -t ext4 /dev/vdb /mnt
    fio --name=verify --filename=/mnt/data --size=48M --rw=randwrite --bsrange=4k-64k \
        --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --time_based --runtime=$1 --output=/tmp/fio &
    fio=$!
}

# The host kills the server five times under fio: the machine notices nothing.
t_vhost_kill() {
    verify_on_vdb 12
    for n in 1 2 3 4 5; do
        sleep 2
        kill -0 $fio
        echo 'host: kill' > /dev/console
    done
    wait $fio || { cat /tmp/fio; return 1; }
    umount /mnt
    e2fsck -f -n /dev/vdb
}

# The host makes the disk larger under fio: the machine hears of it, and so does its file system.
t_vhost_grow() {
    verify_on_vdb 6
    sleep 2
    old=$(blockdev --getsize64 /dev/vdb)
    echo 'host: grow' > /dev/console
    for n in $(seq 100); do
        [ "$(blockdev --getsize64 /dev/vdb)" = "$old" ] || break
        sleep 0.1
    done
    [ "$(blockdev --getsize64 /dev/vdb)" = $((old + (128 << 20))) ]
    kill -0 $fio
    resize2fs /dev/vdb
    wait $fio || { cat /tmp/fio; return 1; }
    dd if=/dev/urandom of=/mnt/last bs=1M count=500 conv=fsync
    umount /mnt
    e2fsck -f -n /dev/vdb
    dd if=/dev/vdb of=/dev/null bs=4k count=1 skip=$(((old + (128 << 20)) / 4096 - 1)) iflag=direct
}

# All this goes on the disk, for a machine that boots from it.
t_vhost_root() {
    mkfs.ext4 -q -F /dev/vdb
    mount -t ext4 /dev/vdb /mnt
    for dir in bin etc init lib lib64 sbin usr; do
        [ ! -e /$dir ] || cp -a /$dir /mnt/
    done
    for dir in proc sys dev run tmp mnt disk modules; do mkdir /mnt/$dir; done
    : > /mnt/modules/order
    : > /mnt/on-disk
    umount /mnt
    e2fsck -f -n /dev/vdb
}

# That machine.
t_root() {
    grep '^/dev/vdb / ext4 rw' /proc/mounts
    mkdir /data
    exercise /data 48M
    rm -r /data
    fstrim -v /
    sync
}

# A larger device, where the kernel has the command for it; else it is larger when attached anew.
t_ublk_grow() {
    new_disk grow 64M
    dev=$(ploop attach --via ublk /disk/grow)
    if ploop grow -s 100M /disk/grow 2>/tmp/why; then
        [ "$(blockdev --getsize64 $dev)" = $((100 << 20)) ]
        echo "note: the device grew in use"
    else
        cat /tmp/why
        grep 'detach and attach' /tmp/why
        ploop detach /disk/grow
        dev=$(ploop attach --via ublk /disk/grow)
        [ "$(blockdev --getsize64 $dev)" = $((100 << 20)) ]
        echo "note: the device grew when attached anew"
    fi
    dd if=/dev/urandom of=/tmp/some bs=1M count=4
    dd if=/tmp/some of=$dev bs=1M seek=96 conv=fsync
    ploop detach /disk/grow
    ploop check -f /disk/grow
}

t_ublk_fs() {
    new_disk ublk
    dev=$(ploop attach --via ublk --queues 2 /disk/ublk)
    fs_on $dev
    ploop detach /disk/ublk
    [ ! -e $dev ]
    ploop check -f /disk/ublk
}

# What the kernel was told: size, blocks, limits, cache; and `auto` takes ublk.
t_ublk_info() {
    new_disk info 64M
    dev=$(ploop attach /disk/info)
    q=/sys/block/${dev#/dev/}/queue
    echo "$dev"
    case $dev in /dev/ublkb*) ;; *) return 1 ;; esac
    [ "$(blockdev --getsize64 $dev)" = $((64 << 20)) ]
    [ "$(cat $q/write_cache)" = 'write back' ]
    [ "$(cat $q/fua)" = 1 ]
    [ "$(cat $q/discard_granularity)" = $((1 << 20)) ]
    [ "$(cat $q/write_zeroes_max_bytes)" -gt 0 ]
    # A flush and a write with FUA reach the image, and are counted there.
    before=$(flushes $dev)
    dd if=/dev/urandom of=$dev bs=4k count=1 conv=fsync
    [ "$(flushes $dev)" -gt "$before" ]
    fio --name=fua --filename=$dev --rw=write --bs=4k --size=4k --offset=28k --direct=1 \
        --sync=dsync --buffer_pattern=0x5a --output=/dev/null
    dd if=$dev bs=4k skip=7 count=1 iflag=direct | tr -d Z | cmp - /dev/null
    ploop detach /disk/info
    dev=$(ploop attach --ro /disk/info)
    [ "$(blockdev --getro $dev)" = 1 ]
    ploop detach /disk/info
}

# Flush requests that a disk has ended.
flushes() {
    ploop stat --prometheus $1 | grep '^ploop_requests_total.*op="flush"' |
        awk '{ n += $NF } END { print n + 0 }'
}

t_ublk_trim() {
    new_disk trim
    dev=$(ploop attach --via ublk /disk/trim)
    mkfs.ext4 -q -F $dev
    mount -t ext4 $dev /mnt
    dd if=/dev/urandom of=/mnt/big bs=1M count=64 conv=fsync
    full=$(du -k /disk/trim/root.hds | cut -f1)
    rm /mnt/big
    sync
    fstrim /mnt
    umount /mnt
    ploop detach /disk/trim
    left=$(du -k /disk/trim/root.hds | cut -f1)
    echo "note: full $full KiB, after trim $left KiB"
    [ $((full - left)) -gt 50000 ]
    ploop check -f /disk/trim
}

t_ublk_busy() {
    new_disk ubusy 64M
    dev=$(ploop attach --via ublk /disk/ubusy)
    mkfs.ext4 -q -F $dev
    mount -t ext4 $dev /mnt
    if ploop detach /disk/ubusy; then echo "detached though mounted"; return 1; fi
    umount /mnt
    ploop detach /disk/ubusy
}

# What was written through ublk reads the same through the loop device.
t_ublk_reads() {
    new_disk ureads 64M
    dev=$(ploop attach --via ublk /disk/ureads)
    dd if=/dev/urandom of=/tmp/some bs=1M count=8
    dd if=/tmp/some of=$dev bs=1M seek=3 conv=fsync
    ploop detach /disk/ureads
    dev=$(ploop attach --via loop --ro /disk/ureads)
    dd if=$dev bs=1M skip=3 count=8 | cmp - /tmp/some
    ploop detach /disk/ureads
}

# A partition the kernel finds itself, and a mount that outlives a kill of its server.
t_ublk_mount() {
    mkdir /disk/umount
    ploop init -s 256M /disk/umount/root.hds
    ploop mount -m /mnt /disk/umount/DiskDescriptor.xml
    grep '^/dev/ublkb.*p1 /mnt ext4 ' /proc/mounts
    dd if=/dev/urandom of=/tmp/some bs=1M count=8
    cp /tmp/some /mnt/some
    sync
    kill -KILL $(server_of)
    if ploop detach /disk/umount; then echo "detached from under a mount"; return 1; fi
    ploop attach --via ublk /disk/umount
    echo 3 > /proc/sys/vm/drop_caches
    cmp /tmp/some /mnt/some
    umount /mnt
    ploop detach /disk/umount
    # By mount(8) of util-linux and its helper, once by hand and once by fstab.
    ln -sf /usr/bin/mount /usr/bin/umount /bin/
    ln -sf /usr/bin/ploop /sbin/mount.ploop
    ln -sf /usr/bin/ploop /sbin/umount.ploop
    /usr/bin/mount -t ploop -o noatime /disk/umount/DiskDescriptor.xml /mnt
    cmp /tmp/some /mnt/some
    /usr/bin/umount /mnt
    [ -z "$(ploop list)" ]
    echo '/disk/umount/DiskDescriptor.xml /mnt ploop ro,noauto 0 0' > /etc/fstab
    /usr/bin/mount /mnt
    cmp /tmp/some /mnt/some
    if touch /mnt/more; then echo "written though read-only"; return 1; fi
    /usr/bin/umount /mnt
    ploop list
    [ -z "$(ploop list)" ]
    ploop check -f /disk/umount
}

# Requests a dead server had: the kernel holds them to be handed over again.
left_over() {
    cat /sys/kernel/debug/block/$1/requeue_list /sys/kernel/debug/block/$1/hctx*/dispatch | wc -l
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

t_ublk_user() {
    new_disk user
    dev=$(ploop attach --via ublk-user-copy /disk/user)
    fs_on $dev
    ploop detach /disk/user
    ploop check -f /disk/user
}

# A new server for a device in use: the old one closes the disk, and whoever uses it waits.
t_ublk_keep() {
    new_disk keep
    dev=$(ploop attach --name=kept --via ublk --queues 2 /disk/keep)
    [ "$(readlink -f /dev/ploop/kept)" = $dev ]
    ploop udev $dev | grep '^PLOOP_NAME=kept$'
    # Linux 6.16 brought this.
    if ! uname -r | awk -F. '{ exit !($1 > 6 || $1 == 6 && $2 >= 16) }'; then
        if ploop detach --keep /disk/keep 2>/tmp/why; then echo "left by an old driver"; return 1; fi
        grep 'cannot wait' /tmp/why
        ploop detach /disk/keep
        [ ! -e /dev/ploop/kept ]
        echo "note: an old driver, and it is said"
        return
    fi
    mkfs.ext4 -q -F /dev/ploop/kept
    mount -t ext4 $dev /mnt
    fio --name=verify --filename=/mnt/data --size=48M --rw=randwrite --bsrange=4k-64k \
        --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --time_based --runtime=20 --output=/tmp/fio &
    fio=$!
    for n in 1 2 3 4 5 6 7 8 9 10; do
        sleep 0.5
        kill -0 $fio
        ploop detach --keep /disk/keep
        # Closed clean, though the device waits; nobody else may have it.
        ploop info -s /disk/keep
        if ploop attach --via loop /disk/keep; then echo "beside one that waits"; return 1; fi
        [ "$(readlink -f /dev/ploop/kept)" = $dev ]
        [ "$(ploop attach --name=kept --via ublk --queues 2 /disk/keep)" = $dev ]
    done
    wait $fio || { cat /tmp/fio; return 1; }
    umount /mnt
    e2fsck -f -n $dev
    ploop list --long
    ploop detach /disk/keep
    [ ! -e /dev/ploop/kept ]
    ploop check -f /disk/keep
}

# The server is killed twenty times under fio on a mounted file system. The device waits, the next
# attach takes it over, and fio verifies all it wrote.
t_ublk_kill() {
    new_disk kill
    dev=$(ploop attach --via ublk /disk/kill)
    mkfs.ext4 -q -F $dev
    mount -t ext4 $dev /mnt
    # Again and again until the last kill: the premise of each is I/O on its way.
    while [ ! -e /tmp/enough ]; do
        fio --name=verify --filename=/mnt/data --size=48M --rw=randwrite --bsrange=4k-64k \
            --ioengine=libaio --iodepth=48 --direct=1 --verify=crc32c --do_verify=1 \
            --verify_fatal=1 --fsync=256 --output=/tmp/fio || exit 1
        echo pass >> /tmp/passes
    done &
    fio=$!
    again=0 deep=0 n=0
    while [ $n -lt 20 ]; do
        n=$((n + 1))
        sleep 0.$((n * 7 % 10))
        pid=$(server_of)
        [ -n "$pid" ]
        # The premise: fio is at it, and requests are left without an answer.
        kill -0 $fio
        kill -KILL $pid
        sleep 0.5
        left=$(left_over ${dev#/dev/})
        again=$((again + left))
        [ $left -lt 32 ] || deep=$((deep + 1))
        if [ $n = 3 ] && ploop attach --via loop /disk/kill; then
            echo "a loop device beside one that waits"; return 1
        fi
        taken=$(ploop attach --via ublk /disk/kill)
        echo "kill $n of pid $pid with $left: $taken"
        [ "$taken" = "$dev" ]
    done
    touch /tmp/enough
    wait $fio || { cat /tmp/fio; return 1; }
    passes=$(wc -l < /tmp/passes)
    echo "note: 20 kills, $again requests handed over again, $deep times 32 or more," \
        "$passes passes of fio without an error"
    [ $again -gt 0 ]
    umount /mnt
    e2fsck -f -n $dev
    ploop detach /disk/kill
    ploop check -f /disk/kill
}

# T17: requests are held on a full host, of a process that was killed; however the device ends, it
# ends within ten seconds, and the disk opens again. `detach` and `--force` end with 7.
full_host() {
    mkdir -p /host
    for way in detach force TERM KILL; do
        mount -t tmpfs -o size=24m host /host
        mkdir /host/d
        ploop init -s 96M -t none /host/d/root.hds
        dev=$(ploop attach --via $1 /host/d)
        server=$(server_of)
        dd if=/dev/urandom of=$dev bs=1M count=64 conv=fsync 2>/dev/null &
        writer=$!
        for n in $(seq 150); do
            ploop stat --prometheus /host/d | grep -q '^ploop_requests_held_total.* [1-9]' && break
            sleep 0.2
        done
        [ $n -lt 150 ] || { echo "$1, $way: nothing is held"; return 1; }
        kill -KILL $writer
        begin=$(uptime_now)
        code=0
        case $way in
            detach) timeout 30 ploop detach $dev || code=$? ;;
            force) timeout 30 ploop detach --force $dev || code=$? ;;
            *) kill -$way $server; code=7 ;;
        esac
        [ $code -eq 7 ] || { echo "$1, $way: exit code $code"; return 1; }
        for n in $(seq 100); do kill -0 $server 2>/dev/null || break; sleep 0.1; done
        if kill -0 $server 2>/dev/null; then echo "$1, $way: the server does not end"; return 1; fi
        echo "note: $1 $way $(echo "$begin $(uptime_now)" | awk '{printf "%.1f s", $2 - $1}')"
        mount -o remount,size=200m /host
        # A device that outlives its server is taken over, and its requests go on.
        dev=$(ploop attach --via $1 /host/d)
        wait $writer 2>/dev/null || true
        dd if=/dev/zero of=$dev bs=1M count=9 conv=fsync 2>/dev/null
        ploop detach /host/d
        ploop check -f /host/d
        umount /host
    done
}

t_full_loop() { full_host loop; }

t_full_nbd() { full_host nbd; }

t_full_ublk() { full_host ublk; }

busy() { awk '/^cpu /{print $2 + $3 + $4 + $7 + $8}' /proc/stat; }

# System calls of a process so far, of all its threads.
calls_of() {
    hist=/sys/kernel/tracing/events/raw_syscalls/sys_enter/hist
    [ -e $hist ] || { echo 0; return; }
    sed -n 's/.*common_pid: *\([0-9]*\) *} *hitcount: *\([0-9]*\).*/\1 \2/p' $hist |
        while read -r tid hits; do [ ! -d /proc/$1/task/$tid ] || echo $hits; done |
        awk '{n += $1} END {print n + 0}'
}

# One load: `kind rw ops-per-second machine-us-per-io server-us-per-io calls-per-io`.
load() {
    kind=$1 dev=$2 pid=$3 rw=$4 busy=$(busy)
    ticks=$(awk '{print $14 + $15}' /proc/$pid/stat) calls=$(calls_of $pid)
    fio --name=f --filename=$dev --rw=$rw --bs=4k --size=64M --ioengine=libaio --iodepth=32 \
        --direct=1 --time_based --runtime=3 --output-format=terse --output=/tmp/terse
    busy=$(($(busy) - busy)) calls=$(($(calls_of $pid) - calls))
    ticks=$(($(awk '{print $14 + $15}' /proc/$pid/stat) - ticks))
    awk -F';' -v k=$kind -v w=$rw -v b=$busy -v t=$ticks -v c=$calls '{
        n = ($6 + $47) / 4
        printf "%s %s %d %.0f %.0f %.2f\n", k, w, $8 + $49, b * 10000 / n, t * 10000 / n, c / n
    }' /tmp/terse
}

# 4 KiB at random, 32 at a time: data copied by the driver, not copied, and the kernel's loop
# device on the same file system. In software emulation only the ratios say something.
t_ublk_figures() {
    mount -t tracefs trace /sys/kernel/tracing 2>/dev/null || :
    echo 'hist:keys=common_pid:size=4096' > \
        /sys/kernel/tracing/events/raw_syscalls/sys_enter/trigger || echo "calls are not counted"
    dd if=/dev/urandom of=/disk/plain bs=1M count=64 conv=fsync
    loop=$(/usr/bin/losetup --show --direct-io=on -f /disk/plain)
    echo "loop $loop 1" > /tmp/kinds
    for kind in copy zero-copy; do
        new_disk fig-$kind 64M
        dev=$(ploop attach --via ublk-$kind /disk/fig-$kind) || continue
        dd if=/disk/plain of=$dev bs=1M oflag=direct conv=fsync
        pid=$(ploop list --json | tr '{' '\n' | grep "fig-$kind/" |
            sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
        echo "$kind $dev $pid" >> /tmp/kinds
    done
    for round in 1 2 3; do
        for rw in randread randwrite; do
            while read -r kind dev pid; do load $kind $dev $pid $rw; done < /tmp/kinds
        done
    done > /tmp/loads
    sort /tmp/loads
    # The middle one of each three.
    sort -k1,2 -k3,3n /tmp/loads | awk 'NR % 3 == 2 {
        printf "note: %s %s %d IOPS, %d us of the machine and %d us of the server per I/O, " \
            "%.2f calls per I/O;\n", $1, $2, $3, $4, $5, $6
    }'
    losetup -d $loop
    for kind in copy zero-copy; do
        [ ! -d /disk/fig-$kind ] || ploop detach /disk/fig-$kind || :
    done
    rm -r /disk/plain /disk/fig-*
}

# There is no udev here: the kernel's own name for a device-mapper device.
dm_path() {
    echo /dev/dm-$(dmsetup info -c --noheadings -o minor $1)
}

t_dm_linear() {
    new_disk linear
    dev=$(ploop attach --via loop /disk/linear)
    echo "0 $(blockdev --getsz $dev) linear $dev 0" | dmsetup create --noudevsync line
    fs_on $(dm_path line)
    dmsetup remove --noudevsync line
    ploop detach /disk/linear
    ploop check -f /disk/linear
}

# The device above fails now and then: the disk below stays whole.
t_dm_flakey() {
    new_disk flakey
    dev=$(ploop attach --via loop /disk/flakey)
    sectors=$(blockdev --getsz $dev)
    echo "0 $sectors linear $dev 0" | dmsetup create --noudevsync flaky
    mkfs.ext4 -q -F $(dm_path flaky)
    mount -t ext4 $(dm_path flaky) /mnt
    exercise /mnt 8M
    sync
    dmsetup suspend --noflush --nolockfs flaky
    echo "0 $sectors flakey $dev 0 0 1" | dmsetup load flaky
    dmsetup resume --noudevsync flaky
    if dd if=/dev/zero of=/mnt/lost bs=64k count=16 conv=fsync; then
        echo "a write succeeded on a device that fails"; return 1
    fi
    umount /mnt
    dmsetup remove --noudevsync flaky
    # What is left is put right by the journal, and the first file is there.
    e2fsck -f -y $dev || [ $? -le 1 ]
    mount -t ext4 $dev /mnt
    [ -s /mnt/data ]
    umount /mnt
    ploop detach /disk/flakey
    ploop check -f /disk/flakey
}

# Two disks at once: what is written above the snapshot of one goes to the other.
t_dm_snapshot() {
    new_disk origin 128M
    new_disk changes 64M
    dev=$(ploop attach /disk/origin)
    cow=$(ploop attach --via loop /disk/changes)
    mkfs.ext4 -q -F $dev
    mount -t ext4 $dev /mnt
    exercise /mnt 8M
    umount /mnt
    before=$(sha256sum < $dev)
    echo "0 $(blockdev --getsz $dev) snapshot $dev $cow P 8" | dmsetup create --noudevsync snap
    mount -t ext4 $(dm_path snap) /mnt
    exercise /mnt 16M
    umount /mnt
    e2fsck -f -n $(dm_path snap)
    dmsetup remove --noudevsync snap
    echo 3 > /proc/sys/vm/drop_caches
    [ "$(sha256sum < $dev)" = "$before" ]
    ploop detach /disk/origin
    ploop detach /disk/changes
    ploop check -f /disk/origin
    ploop check -f /disk/changes
}

# Encrypted: what the disk has is not what the file system wrote.
t_luks() {
    new_disk luks 48M
    dev=$(ploop attach /disk/luks)
    echo secret > /tmp/key
    crypt() { cryptsetup --batch-mode --disable-locks --key-file /tmp/key "$@"; }
    crypt luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $dev
    DM_DISABLE_UDEV=1 crypt open --allow-discards $dev secret
    mkfs.ext4 -q -F $(dm_path secret)
    mount -t ext4 $(dm_path secret) /mnt
    exercise /mnt 6M
    yes 'in plain words' | head -c 1048576 > /mnt/text
    sync
    fstrim /mnt
    umount /mnt
    DM_DISABLE_UDEV=1 crypt close secret
    if grep -q 'in plain words' $dev; then echo "not encrypted"; return 1; fi
    ploop detach /disk/luks
    ploop check -f /disk/luks
}

# Words of the log, one argument: the kernel splits at blanks.
mark() { dmsetup message logged 0 mark "$(echo "$*" | tr ' ' :)"; }

# The file system below our images is recorded, write by write, while files are written and synced
# in a guest's file system, removed and trimmed, snapshots taken and merged. The host replays it
# (replay.rs).
record() {
    truncate -s 420M /disk/recorded
    loop=$(/usr/bin/losetup --show -f /disk/recorded)
    echo "0 $(blockdev --getsz $loop) log-writes $loop $2" | dmsetup create --noudevsync logged
    mkfs.$1 -q $(dm_path logged)
    mkdir -p /host
    mount -t $1 $(dm_path logged) /host
    mkdir /host/d
    ploop init -s 128M -t none -b $3 /host/d/root.hds
    dev=$(ploop attach --via ublk --queues 2 /host/d)
    mkfs.ext4 -q -F $dev
    sync
    mark disk
    mount -t ext4 $dev /mnt
    n=0
    while [ $n -lt 120 ]; do
        n=$((n + 1))
        dd if=/dev/urandom of=/mnt/f$n bs=$((4096 * (1 + n % 13))) count=3 conv=fsync 2>/dev/null
        mark file f$n $(sha256sum < /mnt/f$n | cut -d' ' -f1)
        if [ $n -gt 40 ]; then
            mark gone f$((n - 40))
            rm /mnt/f$((n - 40))
        fi
        case $n in
            25|50|75) ploop snapshot /host/d ;;
            60|100) ploop snapshot-merge /host/d ;;
            *5) fstrim /mnt ;;
        esac
    done
    umount /mnt
    ploop detach /host/d
    umount /host
    echo "note: $(dmsetup status logged | awk '{print $4}') entries"
    dmsetup remove --noudevsync logged
    losetup -d $loop
    rm /disk/recorded
}

t_log_ext4() { record ext4 /dev/vdc 128; }

t_log_xfs() { record xfs /dev/vdd 2048; }

# What is not there is passed by, and said with -v.
t_fallback() {
    new_disk fall 64M
    rmmod ublk_drv
    dev=$(ploop -v attach /disk/fall 2>/tmp/why)
    case $dev in /dev/nbd*) ;; *) cat /tmp/why; echo "without ublk: $dev"; return 1 ;; esac
    grep -i ublk /tmp/why
    ploop detach /disk/fall
    rmmod nbd
    dev=$(ploop -v attach /disk/fall 2>/tmp/why)
    case $dev in /dev/loop*) ;; *) cat /tmp/why; echo "without nbd: $dev"; return 1 ;; esac
    grep -i nbd /tmp/why
    ploop detach /disk/fall
    if ploop attach --via nbd /disk/fall 2>/tmp/why; then echo "attached without nbd"; return 1; fi
    grep 'load the module nbd' /tmp/why
    ploop check -f /disk/fall
}

uptime_now() { read -r up _ < /proc/uptime; echo "$up"; }

run_step() {
    name=$1 limit=$2 need=$3
    if [ ! -e "$need" ]; then echo "skip $name no $need"; return; fi
    dmesg -c >/dev/null
    begin=$(uptime_now)
    timeout -s KILL "$limit" /init step "$name" > /tmp/out 2>&1
    code=$?
    took=$(echo "$begin $(uptime_now)" | awk '{printf "%.1f", $2 - $1}')
    note=$(sed -n 's/^note: / /p' /tmp/out | tr -d '\n')
    if [ $code -eq 0 ]; then echo "ok $name $took$note"; return; fi
    echo "not ok $name $took exit code $code: $(tail -n 1 /tmp/out)"
    sed 's/^/# /' /tmp/out
    dmesg | tail -n 15 | sed 's/^/# kernel: /'
    umount /mnt 2>/dev/null
    timeout 20 ploop detach /host/d >/dev/null 2>&1
    umount /host 2>/dev/null
    dmsetup remove_all --noudevsync 2>/dev/null
    for disk in /disk/*/; do timeout 20 ploop detach $disk >/dev/null 2>&1; done
}

if [ "$1" = step ]; then
    set -e
    "t_$2"
    exit
fi

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
echo "ok boot $(uptime_now) $(uname -r)"
for m in $(cat /modules/order); do
    case $m in
        nbd) options=nbds_max=2 ;;
        *) options= ;;
    esac
    insmod /modules/$m.ko $options 2>/tmp/insmod || echo "# insmod $m: $(cat /tmp/insmod)"
done
rm -f /modules/*.ko
if grep -q boot=disk /proc/cmdline && [ ! -e /on-disk ]; then
    mkdir /new
    mount -t ext4 /dev/vdb /new
    for dir in /dev/shm /tmp /run /dev /sys/kernel/debug /sys /proc; do umount -l $dir; done
    exec switch_root /new /init
fi
# steps=A,B on the kernel's command line: only these, and what all need.
only=$(sed -n 's/.*steps=\([a-z_0-9,]*\).*/,\1,storage,/p' /proc/cmdline)
[ ! -e /on-disk ] || only=,root,
echo "$STEPS" | while read -r name limit need; do
    [ -n "$name" ] || continue
    # The machine on our disk does that one step, and no other machine does.
    case $only,$name in ,root) continue ;; ,$name|*,$name,*,$name) ;; *) continue ;; esac
    run_step "$name" "$limit" "$need"
done
echo "suite done"
[ ! -e /on-disk ] || { sync; mount -o remount,ro /; }
poweroff -f
