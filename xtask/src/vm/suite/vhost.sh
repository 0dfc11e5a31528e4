# The machine's second disk, served by the host over vhost-user-blk.

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
