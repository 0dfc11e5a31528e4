#!/usr/bin/env bash
# Component: XFS with reflink, Linux 6.18, statx(2) STATX_DIOALIGN. Needs root, xfsprogs, a loop device.
# Common guess: the direct-I/O offset alignment of a file is a property of its file system and
#   device, so it never changes; or, knowing about reflink, it returns when no clone is left.
# Behaviour: `cp --reflink` raises it from 512 to 4096 for the copy AND for the source, at once,
#   also for descriptors that are already open. It stays at 4096 when the copy is deleted and when
#   every block of the source has been written anew, since the inode keeps its reflink flag.
# Yet the alignment is only advice: a 512-byte direct write is still accepted (the kernel does it
#   through the page cache).
# Who is hurt: whoever derives a disk's sector size from statx: a backup copy changes it from 512
#   to 4096, and the partition table cannot be found any more.
set -euo pipefail
case $(uname -r) in 6.18.*) ;; *) echo "seen on Linux 6.18, this is $(uname -r)"; exit 2 ;; esac
dir=$(mktemp -d)
trap 'umount "$dir/m" 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
truncate -s 512M fs.img && mkdir m
mkfs.xfs -q -m reflink=1 fs.img && mount -o loop fs.img m

cat >align.py <<'PY'
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def align(fd):
    buf = ctypes.create_string_buffer(256)
    # statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, buf)
    assert libc.syscall(332, fd, b"", 0x1000, 0x2000, buf) == 0
    assert struct.unpack_from("I", buf, 0)[0] & 0x2000, "no STATX_DIOALIGN"
    return struct.unpack_from("I", buf, 0x9C)[0]
kept = os.open("m/disk", os.O_RDWR | os.O_DIRECT)
seen = [("fresh file", align(kept))]
os.system("cp --reflink=always m/disk m/copy")
copy = os.open("m/copy", os.O_RDONLY)
seen += [("source after the copy, same descriptor", align(kept)), ("copy", align(copy))]
os.close(copy)
os.unlink("m/copy")
os.system("sync -f m")
seen += [("source after the copy was deleted", align(kept))]
os.system("dd if=/dev/urandom of=m/disk bs=1M count=8 conv=notrunc,fsync status=none")
seen += [("source after it was written anew", align(kept))]
for what, value in seen:
    print(f"{what}: {value}")
import mmap
block = mmap.mmap(-1, 4096)
print("512-byte direct write at 512:", os.pwritev(kept, [memoryview(block)[:512]], 512))
sys.exit([value for _, value in seen] != [512, 4096, 4096, 4096, 4096])
PY
dd if=/dev/urandom of=m/disk bs=1M count=8 conv=fsync status=none
echo "Linux $(uname -r | cut -d. -f1,2), $(mkfs.xfs -V)"
python3 align.py || { echo "the behaviour has changed"; exit 1; }
# Output seen on Linux 6.18 (xfsprogs 6.1.0):
#   fresh file: 512
#   source after the copy, same descriptor: 4096
#   copy: 4096
#   source after the copy was deleted: 4096
#   source after it was written anew: 4096
#   512-byte direct write at 512: 512
