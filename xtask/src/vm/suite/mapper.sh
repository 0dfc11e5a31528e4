# Device-mapper above and below our disks.

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
