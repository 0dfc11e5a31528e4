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
nbd_kernel    240  /dev/nbd0
dm_linear     180  /dev/mapper/control
dm_flakey     240  /dev/mapper/control
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

# A server in the foreground and the kernel's client on its socket.
t_nbd_kernel() {
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

uptime_now() { read -r up _ < /proc/uptime; echo "$up"; }

run_step() {
    name=$1 limit=$2 need=$3
    if [ ! -e "$need" ]; then echo "skip $name no $need"; return; fi
    begin=$(uptime_now)
    timeout -s KILL "$limit" /init step "$name" > /tmp/out 2>&1
    code=$?
    took=$(echo "$begin $(uptime_now)" | awk '{printf "%.1f", $2 - $1}')
    if [ $code -eq 0 ]; then echo "ok $name $took"; return; fi
    echo "not ok $name $took exit code $code: $(tail -n 1 /tmp/out)"
    sed 's/^/# /' /tmp/out
    dmesg | tail -n 15 | sed 's/^/# kernel: /'
    umount /mnt 2>/dev/null
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
echo "$STEPS" | while read -r name limit need; do
    [ -z "$name" ] || run_step "$name" "$limit" "$need"
done
echo "suite done"
poweroff -f
