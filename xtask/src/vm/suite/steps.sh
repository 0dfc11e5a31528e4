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
