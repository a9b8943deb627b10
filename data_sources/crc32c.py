"""CRC32C, the checksum of TFRecord files (RFC 3720, appendix B.4), fast enough for images.

Over GF(2), the state of the CRC is a linear function of the bytes that were read. This has three
uses here. Leading zero bytes do not change the state. The start value 0xffffffff has the same
effect as inverting the first four bytes. And pieces can be processed in parallel: the CRC of A
followed by the n bytes B is the CRC of A followed by n zeros, plus the CRC of B.
"""

import numpy as np

POLYNOMIAL = 0x82F63B78  # lowest bit first
LANE = 128  # bytes in each of the pieces that are processed in parallel
ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Returns the CRC32C of some bytes."""
    if len(data) < 8 * LANE:
        crc = ONES
        for byte in data:
            crc = TABLE_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ ONES
    lanes = 1 << (-(-len(data) // LANE) - 1).bit_length()  # a power of two, so that they pair up
    padded = np.zeros(lanes * LANE, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[-len(data) :][:4] ^= 0xFF
    crcs = np.zeros(lanes, np.uint32)
    for words in np.ascontiguousarray(padded.view("<u2").reshape(lanes, -1).T):
        crcs = TABLE_16[(crcs ^ words) & 0xFFFF] ^ (crcs >> 16)
    zeros = ZEROS
    while len(crcs) > 1:
        crcs = _transform(crcs[::2], zeros) ^ crcs[1::2]
        zeros = _transform(zeros, zeros)
    return int(crcs[0]) ^ ONES


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC32C as TFRecord files store it: rotated, and with a constant added."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & ONES


def _table() -> np.ndarray:
    """Returns the states, uint32 (256,), after each of the 256 bytes, starting from state 0."""
    crcs = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crcs = (crcs >> 1) ^ (crcs & 1) * np.uint32(POLYNOMIAL)
    return crcs


def _transform(crcs: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Applies a linear map to crcs: uint32 (N,); it maps bit i to `images[i]`, uint32 (32,)."""
    bits = crcs[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(bits * images, axis=1)


def _next_byte(crcs: np.ndarray) -> np.ndarray:
    """Returns the states after one more zero byte."""
    return TABLE[crcs & 0xFF] ^ (crcs >> 8)


def _zeros() -> np.ndarray:
    """Returns the linear map of LANE zero bytes, in the form that `_transform` takes."""
    images = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(LANE):
        images = _next_byte(images)
    return images


TABLE = _table()
TABLE_LIST = TABLE.tolist()  # Python integers, which are faster one at a time
TABLE_16 = _next_byte(_next_byte(np.arange(2**16, dtype=np.uint32)))  # for two bytes at once
ZEROS = _zeros()
