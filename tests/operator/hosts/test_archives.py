"""A file that a host sends as an archive takes no more memory than was sent."""

import io
import tarfile

import pytest

from dotmac_operator.hosts.engine import _first_file
from dotmac_operator.hosts.port import EngineError

PATH = "/config/caddy/autosave.json"


def archive(content: bytes, mode: str = "w:", **changes: object) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as tar:  # type: ignore[call-overload]
        member = tarfile.TarInfo("autosave.json")
        member.size = len(content)
        for name, value in changes.items():
            setattr(member, name, value)
        tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def sparse(size: int) -> bytes:
    """One block that says it is a file of `size` bytes with nothing in it (GNU's old format)."""
    member = tarfile.TarInfo("autosave.json")
    member.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    block[386:398] = b"%011o\0" % size  # offset of the one piece that is there, at the very end
    block[398:410] = b"%011o\0" % 0
    block[483:495] = b"%011o\0" % size  # real size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def test_a_plain_file_is_read() -> None:
    assert _first_file(archive(b"{}"), PATH) == b"{}"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_not_unpacked(mode: str) -> None:
    """Regression: 64 MiB that unpack into as many GiB would have ended the operator for all hosts."""
    with pytest.raises(EngineError, match="cannot be read"):
        _first_file(archive(bytes(1 << 20), mode), PATH)


def test_a_file_of_holes_is_not_filled() -> None:
    made = sparse(1 << 30)
    with tarfile.open(fileobj=io.BytesIO(made), mode="r:") as tar:
        member = tar.next()
        assert member is not None and member.isreg() and member.size == 1 << 30  # what it would have been
    with pytest.raises(EngineError, match="no regular file"):
        _first_file(made, PATH)


@pytest.mark.parametrize("made", [b"", b"x" * 600, archive(b"{}")[:513], b"\0" * 1024])
def test_what_is_no_archive_is_a_typed_error(made: bytes) -> None:
    with pytest.raises(EngineError):
        _first_file(made, PATH)
