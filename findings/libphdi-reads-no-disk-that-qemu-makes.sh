#!/usr/bin/env bash
# Component: libphdi-python 20260902 (PyPI), the library for Parallels hard disk images of the libyal
#   family, against images made by QEMU 10.0.2; dissect.hypervisor 3.21 (PyPI) for comparison.
# Common guess: a maintained reader of the format opens what qemu-img writes in it, beside an
#   ordinary descriptor, and reads the same bytes.
# Behaviour: it opens none of them. With QEMU's default cluster of 1 MiB the descriptor is accepted
#   and the first read fails, "unsupported signature": it knows the first version of the image
#   header alone, QEMU writes the second. With any other cluster size (64 KiB, 4 MiB) the
#   descriptor itself is refused, "unsupported block size". dissect.hypervisor reads all three.
# Who is hurt: whoever plans on it to read ploop or Parallels disks in forensics or recovery.
set -euo pipefail
version=$(qemu-img --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
[ "$version" = 10.0.2 ] || { echo "seen with QEMU 10.0.2, this is $version"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip -q --disable-pip-version-check install libphdi-python==20260902 dissect.hypervisor==3.21
sectors=$((64 * 2048))
for cluster in 128 2048 8192; do
    mkdir $cluster
    qemu-img create -q -f parallels -o cluster_size=$((cluster * 512)) $cluster/disk.hds $((sectors * 512))
    qemu-io -f parallels -c 'write -q -P 17 5M 1M' $cluster/disk.hds >/dev/null
    cat >$cluster/DiskDescriptor.xml <<XML
<?xml version='1.0' encoding='UTF-8'?>
<Parallels_disk_image Version="1.0">
  <Disk_Parameters><Disk_size>$sectors</Disk_size><Cylinders>256</Cylinders><Heads>16</Heads>
    <Sectors>32</Sectors><Padding>0</Padding></Disk_Parameters>
  <StorageData><Storage><Start>0</Start><End>$sectors</End><Blocksize>$cluster</Blocksize>
    <Image><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID><Type>Compressed</Type>
      <File>disk.hds</File></Image></Storage></StorageData>
  <Snapshots><Shot><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
    <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID></Shot></Snapshots>
</Parallels_disk_image>
XML
done
cat >read.py <<'PY'
from pathlib import Path
import pyphdi
from dissect.hypervisor.disk.hdd import HDD
def libphdi(path):
    disk = pyphdi.handle()
    disk.open(str(path / "DiskDescriptor.xml"))
    disk.open_extent_data_files()
    return disk.read_buffer_at_offset(4096, 5 << 20)
def dissect(path):
    disk = HDD(path).open()
    disk.seek(5 << 20)
    return disk.read(4096)
for cluster in (128, 2048, 8192):
    for name, read in (("libphdi", libphdi), ("dissect", dissect)):
        try:
            said = "right" if read(Path(str(cluster))) == b"\x11" * 4096 else "WRONG DATA"
        except OSError as error:
            said = next(w for w in ("unsupported block size", "unsupported signature") if w in str(error))
        print(f"cluster of {cluster} sectors, {name}: {said}")
PY
env/bin/python read.py | tee seen
cat >expected <<'WANT'
cluster of 128 sectors, libphdi: unsupported block size
cluster of 128 sectors, dissect: right
cluster of 2048 sectors, libphdi: unsupported signature
cluster of 2048 sectors, dissect: right
cluster of 8192 sectors, libphdi: unsupported block size
cluster of 8192 sectors, dissect: right
WANT
diff expected seen || { echo "the behaviour has changed"; exit 1; }
