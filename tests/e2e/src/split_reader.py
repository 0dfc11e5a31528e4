"""What a bundle holds, told without ploop: the SHA-256 of the disk as a guest would read it.

usage: split_reader.py BUNDLE. Reads DiskDescriptor.xml and every piece's chain of images, version 1
or 2 or raw, and nothing else. It knows no locks and no marks, and checks no more than it must.
"""
import hashlib
import struct
import sys
import xml.etree.ElementTree as xml

NONE = "{00000000-0000-0000-0000-000000000000}"


def layer(path, count, cluster):
    """Where an image has each cluster: its file and a list of positions, None for a hole."""
    image = open(path, "rb")
    head = image.read(64)
    if head[:16] not in (b"WithoutFreeSpace", b"WithouFreSpacExt"):
        size = image.seek(0, 2)
        return image, [n * cluster if n * cluster < size else None for n in range(count)]
    unit = 512 if head[:16] == b"WithoutFreeSpace" else cluster
    entries = min(struct.unpack_from("<I", head, 32)[0], count)
    table = struct.unpack(f"<{entries}I", image.read(4 * entries))
    return image, [word * unit if word else None for word in table] + [None] * (count - entries)


def main(bundle):
    root = xml.parse(f"{bundle}/DiskDescriptor.xml").getroot()
    parents = {s.findtext("GUID"): s.findtext("ParentGUID") for s in root.iter("Shot")}
    total = hashlib.sha256()
    for storage in root.iter("Storage"):
        start, end, blocks = (int(storage.findtext(n)) for n in ("Start", "End", "Blocksize"))
        size, cluster = (end - start) * 512, blocks * 512
        files = {i.findtext("GUID"): i.findtext("File") for i in storage.iter("Image")}
        chain, at = [], root.findtext("Snapshots/TopGUID")
        while at != NONE:  # the newest first
            chain.append(layer(f"{bundle}/{files[at]}", -(-size // cluster), cluster))
            at = parents[at]
        for n in range(-(-size // cluster)):
            data = b""
            for image, places in chain:
                if places[n] is not None:
                    image.seek(places[n])
                    data = image.read(cluster)
                    break
            total.update(data.ljust(cluster, b"\0")[: size - n * cluster])
    print(total.hexdigest())


main(sys.argv[1])
