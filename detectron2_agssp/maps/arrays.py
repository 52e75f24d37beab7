"""NumPy's files, read with care: nothing is unpickled, and no more memory taken than a file has."""

import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from detectron2_agssp.io.files import read_regular


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not one of numbers, or has another length than its header says.
    """
    return _decode(read_regular(path))


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an archive that ``numpy.savez`` wrote, by their names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not one, is compressed (a small file could fill the memory), or has an
            array that :func:`read_npy` would refuse.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_regular(path))) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("it is compressed")
            if size > os.path.getsize(path):
                raise ValueError("its parts overlap")
            return {m.filename.removesuffix(".npy"): _decode(archive.read(m)) for m in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is not a whole .npz archive ({error})") from error


def _decode(encoded: bytes) -> np.ndarray:
    file = io.BytesIO(encoded)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # its parser raises errors of NumPy's, Python's and the tokenizer's
        raise ValueError("it has no header of a NumPy array") from error
    if dtype.kind not in "fiub":
        raise ValueError(f"it holds {dtype}, not numbers")
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(encoded) - start:
        raise ValueError(f"it has another length than its shape {shape} needs")
    array = np.frombuffer(encoded[start:], dtype) if 0 not in shape else np.zeros(shape, dtype)
    return array.reshape(shape, order="F" if fortran else "C").copy()
