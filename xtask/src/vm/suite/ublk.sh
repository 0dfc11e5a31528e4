# ublk.

t_ublk_resize() { partition_resized uresize ublk; }

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
