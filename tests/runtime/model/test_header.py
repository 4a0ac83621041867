import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_runtime.failures import ModelUnreadable, StartFailure, UnsupportedModel
from aweigh_runtime.model.header import read_header


def _write(path: Path, header: Any, data: bytes = b"\0" * 64) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def _tensor(begin: int = 0, end: int = 16, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [begin, end]} | changes


def test_tensors_are_listed_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "late": _tensor(16, 32),
        "early": _tensor(0, 16),
        "empty": _tensor(16, 16, shape=[0, 4]),
    }
    tensors = read_header(_write(tmp_path / "m.safetensors", header))

    assert [tensor.name for tensor in tensors] == ["early", "empty", "late"]
    assert tensors[2].start - tensors[0].start == 16
    assert tensors[2].shape == (2, 2)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b"[]", "is not a safetensors file"),
        (b"{]", "its header is not valid JSON"),
        (b'{"a": {}, "a": {}}', "stands there twice"),
        ({"a": 1}, "tensor a is not described"),
        ({"a": _tensor(shape="2x2")}, "tensor a is not described"),
        ({"a": _tensor(shape=[2, -2])}, "tensor a is not described"),
        ({"a": _tensor(shape=[2, 2.0])}, "tensor a is not described"),
        ({"a": _tensor(dtype=4)}, "tensor a is not described"),
        ({"a": _tensor(data_offsets=[0])}, "tensor a is not described"),
        ({"a": _tensor(0, 12)}, "has offsets 0 to 12; expected 16 bytes between them"),
        ({"a": _tensor(16, 0)}, "has offsets 16 to 0"),
        ({"a": _tensor(-16, 0)}, "has offsets -16 to 0"),
        ({"a": _tensor(shape=[2**40, 2**40])}, "has offsets 0 to 16"),
        ({"a": _tensor(0, 16), "b": _tensor(8, 24)}, "tensors a and b overlap"),
        ({"a": _tensor(56, 72)}, "is truncated: tensor a ends at byte"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(
    tmp_path: Path, header: Any, sentence: str
) -> None:
    with pytest.raises(ModelUnreadable, match=sentence):
        read_header(_write(tmp_path / "m.safetensors", header))


def test_an_unknown_number_format_is_refused_by_name(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.safetensors", {"a": _tensor(dtype="F4")})
    with pytest.raises(UnsupportedModel, match="tensor a has number format 'F4'"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a safetensors file"),
        (b"\x08\x00\x00", "is not a safetensors file"),
        (b"PK\x03\x04" + b"\0" * 100, "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer, .* git lfs pull"),
        (b"\x80\x02}q\x00." + b"x" * 100, "is not a safetensors file"),
        (struct.pack("<Q", 1 << 40) + b"{}", "is not a safetensors file"),
        (struct.pack("<Q", 1000) + b"{}", "is truncated: its header needs 1008 bytes"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable, match=sentence):
        read_header(path)


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_refused_or_leaves_every_tensor_inside_the_file(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "m.safetensors"
    _write(path, {"a": _tensor(0, 16), "b": _tensor(16, 32), "c": _tensor(32, 48)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        tensors = read_header(path)
    except StartFailure:
        return
    size = path.stat().st_size
    assert all(t.start >= 8 and t.start + t.num_bytes <= size for t in tensors)
