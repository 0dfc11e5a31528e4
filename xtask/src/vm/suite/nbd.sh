# The kernel's NBD client.

t_nbd_resize() { partition_resized nresize nbd; }

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
