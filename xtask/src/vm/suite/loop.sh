# Loop devices, and disks that grow with their partition and file system.

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
    [ ! -e ${dev}p1 ]
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
