"""Rewrite single boxes of an MP4 file whose movie header comes last, for forms that ffmpeg reads and doesn't write."""

import struct

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}


def parse(payload):
    """Return the boxes in `payload` as a list of [kind, content]; content is a list again for a container."""
    boxes = []
    at = 0
    while at + 8 <= len(payload):
        size, kind = struct.unpack_from(">I4s", payload, at)
        content = payload[at + 8 : at + size]
        boxes.append([kind, parse(content) if kind in CONTAINERS else content])
        at += size
    return boxes


def serialize(boxes):
    """The inverse of `parse`."""
    out = b""
    for kind, content in boxes:
        content = serialize(content) if isinstance(content, list) else content
        out += struct.pack(">I4s", 8 + len(content), kind) + content
    return out


def find(boxes, *path):
    """Return the first box ([kind, content]) at `path`."""
    for box in boxes:
        if box[0] == path[0]:
            return box if len(path) == 1 else find(box[1], *path[1:])
    raise KeyError(path)


def rewrite(source, target, change):
    """Write `source` to `target` with `change(moov)` applied; the movie header must be behind the samples."""
    boxes = parse(source.read_bytes())
    kinds = [kind for kind, _ in boxes]
    assert kinds.index(b"mdat") < kinds.index(b"moov"), "chunk offsets would move"
    change(find(boxes, b"moov")[1])
    target.write_bytes(serialize(boxes))


def use_co64(moov):
    """Make the chunk offsets 64 bits wide."""
    box = find(moov, b"trak", b"mdia", b"minf", b"stbl", b"stco")
    n_chunks = struct.unpack_from(">I", box[1], 4)[0]
    offsets = struct.unpack_from(f">{n_chunks}I", box[1], 8)
    box[:] = [b"co64", bytes(4) + struct.pack(f">I{n_chunks}Q", n_chunks, *offsets)]


def use_stz2(moov):
    """Make the sample sizes 16 bits wide."""
    box = find(moov, b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    n_samples = struct.unpack_from(">I", box[1], 8)[0]
    sizes = struct.unpack_from(f">{n_samples}I", box[1], 12)
    box[:] = [b"stz2", bytes(4) + struct.pack(f">II{n_samples}H", 16, n_samples, *sizes)]


def set_edits(*edits):
    """Return a change that gives the first track this edit list, of (movie ticks, media time or -1)."""

    def change(moov):
        trak = find(moov, b"trak")[1]
        entries = b"".join(struct.pack(">IiI", n_ticks, media_time, 1 << 16) for n_ticks, media_time in edits)
        elst = bytes(4) + struct.pack(">I", len(edits)) + entries
        find(trak, b"edts")[1] = [[b"elst", elst]]

    return change


def add_junk(moov):
    """Add boxes that nobody knows and one that is broken, where cameras put their own."""
    find(moov, b"trak")[1].insert(0, [b"\xa9xyz", b"somewhere"])
    moov.insert(0, [b"udta", b"\xff\xff\xff\xffbroken"])
