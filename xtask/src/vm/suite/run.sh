# Process 1: mounts, modules, and one step after the other.

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
