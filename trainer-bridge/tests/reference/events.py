"""Reads a TensorBoard event file without TensorFlow or this project's code, and prints what it says as JSON lines.
Formats: TFRecord and crc32c from TensorFlow's documentation, protobuf's wire format, event.proto's field numbers."""

import json
import struct
import sys


def crc32c(data):
    """CRC-32C (Castagnoli), bit by bit: reflected polynomial 0x82f63b78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        (length_crc,) = struct.unpack_from("<I", data, at + 8)
        assert length_crc == masked(data[at : at + 8]), f"byte {at}: checksum of the length"
        record = data[at + 12 : at + 12 + length]
        (crc,) = struct.unpack_from("<I", data, at + 12 + length)
        assert crc == masked(record), f"byte {at}: checksum of the record"
        yield record
        at += 16 + length


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 1:
            (value,), at = struct.unpack_from("<d", data, at), at + 8
        elif kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind == 5:
            (value,), at = struct.unpack_from("<f", data, at), at + 4
        else:
            raise ValueError(f"wire type {kind}")
        yield number, value


def event(record):
    said = {"step": 0, "scalars": {}}
    for number, value in fields(record):
        if number == 1:
            assert value > 1.7e9, "wall time in seconds since 1970"
        elif number == 2:
            said["step"] = value
        elif number == 3:
            said["file_version"] = value.decode()
        elif number == 5:
            for inner, scalar in fields(value):
                assert inner == 1
                parts = dict(fields(scalar))
                said["scalars"][parts[1].decode()] = parts.get(2, 0.0)
        elif number == 7:
            said["session_status"] = dict(fields(value))[1]
        else:
            raise ValueError(f"field {number}")
    return said


if __name__ == "__main__":
    assert crc32c(b"123456789") == 0xE3069283, "the published check value"
    for record in records(open(sys.argv[1], "rb").read()):
        print(json.dumps(event(record)))
