"""Images in tar archives: what is listed and read, and what must not be."""

import io
import os
import tarfile

import pytest
from detectron2.utils.file_io import PathHandler, PathManager

from detectron2_agssp.io.images import list_images, read_image
from detectron2_agssp.io.tar_shards import (
    TarShards,
    check_no_archive,
    expand_braces,
    image_root_of,
)
from tests.conftest import make_surface


def write_tar(path, members, **options):
    """``members``: name -> bytes, or what a TarInfo differs in."""
    with tarfile.open(path, options.pop("mode", "w"), **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(info, key, value)
                archive.addfile(info)
    return path


def root_of(*parts):
    return image_root_of(os.path.join(*map(str, parts)))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_folder_of_images_in_two_archives(tmp_path, format):
    long = f"b/{'x' * 90}/{'y' * 90}.png"  # beyond the 100 letters of a header
    first = {"./a/0.png": b"zero", "a/1.png": b"one", "a/1.cls": b"3", "readme.txt": b"text"}
    second = {"b/2.jpg": b"two", "top.png": b"top", "readme.txt": b"other text"}
    if format != tarfile.USTAR_FORMAT:
        second[long] = b"long"
    write_tar(tmp_path / "shard-08.tar", first, format=format)
    write_tar(tmp_path / "shard-09.tar", second, format=format)
    root = root_of(tmp_path, "shard-{08..09}.tar")
    expected = {"a/0.png": b"zero", "a/1.png": b"one", "b/2.jpg": b"two", "top.png": b"top"}
    if format != tarfile.USTAR_FORMAT:
        expected[long] = b"long"
    assert list(list_images(root)) == sorted(expected)
    for name, content in expected.items():
        with PathManager.open(f"{root}/{name}", "rb") as file:
            assert file.read() == content
    assert PathManager.isdir(f"{root}/b/")
    assert PathManager.isfile(f"{root}/top.png")
    for name in ("a/2.png", "b/2.jp", "a/1.cls", "c", "a"):
        assert not PathManager.isfile(f"{root}/{name}")
    for name in ("c", "top.png", "a/1", "b/x"):
        assert not PathManager.isdir(f"{root}/{name}")
    assert root_of(tmp_path, "shard-*.tar") != root
    assert list(list_images(root_of(tmp_path, "shard-*.tar"))) == sorted(expected)


def test_listed_as_a_folder_is(tmp_path):
    """Also where a folder and a file differ in a letter that sorts before or after the slash."""
    names = ["a-b.png", "a/0.png", "a/b/c.png", "a/b0.png", "a.png", "a0/1.png", "z.png"]
    names += [".hidden/x.png", "a/.y.png"]
    for name in names:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    write_tar(tmp_path / "x.tar", dict.fromkeys(names, b""))
    assert list(list_images(root_of(tmp_path, "x.tar"))) == list(list_images(tmp_path / "folder"))


def test_the_pixels_are_those_of_the_file(tmp_path):
    from PIL import Image

    Image.fromarray(make_surface(20, 30)).save(tmp_path / "a.png")
    write_tar(tmp_path / "x.tar", {"a.png": (tmp_path / "a.png").read_bytes(), "b.png": b"broken"})
    root = root_of(tmp_path, "x.tar")
    assert (read_image(f"{root}/a.png") == read_image(tmp_path / "a.png")).all()
    with pytest.raises(ValueError, match=r"b\.png' \(6 bytes\) is not an image"):
        read_image(f"{root}/b.png")
    with pytest.raises(FileNotFoundError, match=r"'c\.png' is in none of .*x\.tar"):
        read_image(f"{root}/c.png")
    with pytest.raises(ValueError, match="it opens as 'rb', not 'w'"):
        PathManager.open(f"{root}/a.png", "w")


def test_paths_that_leave_the_archive_are_passed_over_and_named(tmp_path, caplog):
    bad = ("../up.png", "a/../../up.png", "/etc/up.png", "..\\up.png", "C:\\up.png", "a//b.png")
    members = {**dict.fromkeys(bad, b"bad"), "good.png": b"good"}
    members["link.png"] = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    members["hard.png"] = {"type": tarfile.LNKTYPE, "linkname": "good.png"}
    members["pipe.png"] = {"type": tarfile.FIFOTYPE}
    write_tar(tmp_path / "x.tar", members)
    with caplog.at_level("WARNING", "detectron2_agssp"):
        assert list(list_images(root_of(tmp_path, "x.tar"))) == ["good.png"]
    assert "9 members of" in caplog.text
    assert "'../up.png' (its path leaves the archive)" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    for name in bad:
        with pytest.raises(FileNotFoundError):
            read_image(f"{root_of(tmp_path, 'x.tar')}/{name}")


def test_damaged_archives_are_named(tmp_path):
    members = {f"{n}.png": bytes(600) for n in range(3)}
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    packed = write_tar(tmp_path / "packed.tar", members, mode="w:gz").read_bytes()
    scrambled = bytearray(whole)
    scrambled[3 * 512 : 3 * 512 + 100] = b"\xff" * 100  # the second header
    cases = {"empty": b"", "text": b"no archive" * 100, "packed": packed}
    cases |= {"cut": whole[:1900], "in_header": whole[:1700], "scrambled": bytes(scrambled)}
    for name, content in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.tar is no tar archive that can be read"):
            list(list_images(root_of(tmp_path, f"{name}.tar")))


def test_archives_that_are_not_there_or_hold_the_same(tmp_path):
    write_tar(tmp_path / "s-0.tar", {"a.png": b"0", "b.png": b"0"})
    write_tar(tmp_path / "s-1.tar", {"a.png": b"1"})
    with pytest.raises(ValueError, match=r"s-1\.tar and .*s-0\.tar both hold 'a\.png'"):
        list(list_images(root_of(tmp_path, "s-{0..1}.tar")))
    with pytest.raises(FileNotFoundError, match=r"2 of 4 archives are not there: .*s-2\.tar"):
        list(list_images(root_of(tmp_path, "s-{0..3}.tar")))
    with pytest.raises(FileNotFoundError, match="No archive is called"):
        list(list_images(root_of(tmp_path, "t-*.tar")))


def test_within_an_archive_the_last_of_a_name_counts(tmp_path):
    """As where an archive was appended to."""
    path = write_tar(tmp_path / "x.tar", {"a.png": b"old"})
    write_tar(path, {"a.png": b"new"}, mode="a")
    assert TarShards(str(path)).read("a.png") == b"new"


def test_changed_archives(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.png": b"old"})
    root = root_of(path)
    assert list(list_images(root)) == ["a.png"]
    write_tar(path, {"a.png": b"new", "b.png": b"b" * 20_000})
    with pytest.raises(OSError, match=r"x\.tar has changed since its images were listed"):
        PathManager.open(f"{root}/a.png", "rb")
    assert list(list_images(root)) == ["a.png", "b.png"]
    with PathManager.open(f"{root}/a.png", "rb") as file:
        assert file.read() == b"new"


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert image_root_of("x-{0..1}.tar") == f"tar://{tmp_path}/x-{{0..1}}.tar"
    assert image_root_of("s3://b/x.tar") == "tar://s3://b/x.tar"
    for same in ("tar:///a/x.tar", "images", "s3://b/images", "x.tar.gz"):
        assert image_root_of(same) == same
    (tmp_path / "folder.tar").mkdir()
    assert image_root_of("folder.tar") == "folder.tar"
    check_no_archive(tmp_path)
    with pytest.raises(ValueError, match=r"'b\.tar' would be the folder to write.*quotes"):
        check_no_archive("b.tar")
    with pytest.raises(FileNotFoundError, match=r"must end in \.tar"):
        PathManager.isdir("tar:///a/b")


def test_braces():
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{a,b}-{9..10}.tar") == ["a-9.tar", "a-10.tar", "b-9.tar", "b-10.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for name in ("{5..1}.tar", "{0..999999}.tar", "{a}.tar", "{0..999}{0..999}.tar"):
        with pytest.raises(ValueError, match=r"archives\.|neither"):
            expand_braces(name)


def test_remote_archives_are_fetched(tmp_path):
    class Store(PathHandler):
        def _get_supported_prefixes(self):
            return ["store://"]

        def _get_local_path(self, path, force=False, **_):
            return str(tmp_path / path.removeprefix("store://"))

    write_tar(tmp_path / "s-0.tar", {"a.png": b"0"})
    write_tar(tmp_path / "s-1.tar", {"b.png": b"1"})
    PathManager.register_handler(Store(), allow_override=True)
    try:
        root = image_root_of("store://s-{0..1}.tar")
        assert list(list_images(root)) == ["a.png", "b.png"]
        with PathManager.open(f"{root}/b.png", "rb") as file:
            assert file.read() == b"1"
    finally:
        del PathManager._path_handlers["store://"]
