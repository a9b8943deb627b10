"""CRC32C, the checksum of TFRecord files (RFC 3720, appendix B.4), fast enough for images.

The state after some bytes is linear in them over GF(2), which has three uses: leading zeros change
nothing, the start value 0xffffffff is the same as four inverted bytes at the front, and pieces may
be summed up side by side: the sum of A followed by n bytes B is that of A followed by n zeros, plus
that of B.
"""

import numpy as np

POLYNOMIAL = 0x82F63B78  # lowest bit first
LANE = 128  # bytes in each of the pieces that are summed up side by side
ONES = 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Returns the checksum of some bytes."""
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
    """Returns the checksum as TFRecord files store it, rotated and shifted."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & ONES


def _table() -> np.ndarray:
    """Returns the states, uint32 (256,), that the 256 bytes lead to from the state 0."""
    crcs = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crcs = (crcs >> 1) ^ (crcs & 1) * np.uint32(POLYNOMIAL)
    return crcs


def _transform(crcs: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Applies the linear map that takes bit i to `images[i]`: uint32 (32,) to crcs: uint32 (N,)."""
    bits = crcs[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(bits * images, axis=1)


def _next_byte(crcs: np.ndarray) -> np.ndarray:
    """Returns the states one zero byte later."""
    return TABLE[crcs & 0xFF] ^ (crcs >> 8)


def _zeros() -> np.ndarray:
    """Returns the linear map, see `_transform`, of LANE zero bytes."""
    images = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(LANE):
        images = _next_byte(images)
    return images


TABLE = _table()
TABLE_LIST = TABLE.tolist()  # Python's own integers: faster one at a time
TABLE_16 = _next_byte(_next_byte(np.arange(2**16, dtype=np.uint32)))  # of two bytes at once
ZEROS = _zeros()
