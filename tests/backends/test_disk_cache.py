"""Compiled programs on disk: files that are damaged, and folders that take none."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract_envs import Ledge
from cuda_twins import twin

from operant_gpu import InvalidConfig
from operant_gpu.backends import disk_cache
from operant_gpu.backends.cpp.compiler import compiler, load_or_make, run_compiler
from operant_gpu.backends.numba import cache as numba_cache

pytestmark = pytest.mark.quick

CONTENT = bytes(range(256)) * 16


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPERANT_GPU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cut(path: Path, share: float) -> None:
    # A file of its own: a library that is loaded is not to change.
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: int(share * len(content))])


def zero(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:100] + bytes(len(content) - 100))


def garble(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"no program")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "of its own").mkdir(parents=True)


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: cut(path, 0.0),
    "half": lambda path: cut(path, 0.5),
    "nearly": lambda path: cut(path, 0.99),
    "zeros": zero,
    "garbage": garble,
    "folder": replace_by_folder,
    "link": replace_by_link,
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


@damages
def test_what_is_damaged_is_removed(damage: Callable[[Path], object], folder: Path) -> None:
    path = disk_cache.keep("kind", "key", ".so", CONTENT)
    assert path is not None
    assert disk_cache.find("kind", "key") == (path, CONTENT)
    assert disk_cache.find("kind", "ke") is None
    damage(path)
    assert disk_cache.find("kind", "key") is None
    assert list(path.parent.iterdir()) == []
    assert disk_cache.keep("kind", "key", ".so", CONTENT) == path


def numba_program() -> None:
    numba_cache.compiled.__wrapped__("def program(a, b, c, d):\n    pass\n")


def cpp_program() -> None:
    def make(path: Path) -> None:
        source = path.with_suffix(".cpp")
        source.write_text('extern "C" int number() { return 7; }')
        run_compiler([*compiler(), "-shared", "-fPIC", str(source), "-o", str(path)])

    loaded: ctypes.CDLL = load_or_make("a number", "number", make)
    assert loaded.number() == 7


def cuda_program() -> None:
    pytest.importorskip("cupy", reason="compilation needs CuPy")
    from operant_gpu.backends.cuda import backend
    from operant_gpu.backends.cuda.source import Known

    environment: Any = LEDGE
    with pytest.MonkeyPatch.context() as changed:
        # NVRTC takes seconds.
        changed.setattr(backend, "_compiled", lambda *_: CONTENT)
        assert backend.cubin(environment, Known(*environment.make_given({})), "sm_90") == CONTENT


LEDGE = twin(Ledge, "ledge.cu")
PROGRAMS = [numba_program, cpp_program, cuda_program]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("damage", ["empty", "half", "zeros"])
def test_programs_that_are_damaged_are_made_anew(program: Callable[[], None], damage: str, folder: Path) -> None:
    program()
    (path,) = (one for one in folder.rglob("*") if one.is_file())
    whole = path.read_bytes()
    DAMAGES[damage](path)
    program()
    (again,) = (one for one in folder.rglob("*") if one.is_file())
    # Compilers may make other bytes of the same source.
    assert len(again.read_bytes()) == pytest.approx(len(whole), rel=0.1)


def test_a_library_that_does_not_load_is_made_anew(folder: Path) -> None:
    cpp_program()
    (path,) = (one for one in folder.rglob("*") if one.is_file())
    key, suffix = path.name.rpartition("-")[0], path.suffix
    path.unlink()
    foreign = disk_cache.keep("cpp", key, suffix, b"of another system")
    assert foreign is not None
    cpp_program()
    assert [one for one in folder.rglob("*") if one.is_file()] == [path]


def test_a_function_that_is_kept_is_not_compiled_again(folder: Path) -> None:
    source = "def program(a, b, c, d):\n    pass\n"
    assert [numba_cache.compiled.__wrapped__(source).cache_hits for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, None], ids=str)
def test_what_cannot_be_kept_is_made_by_each_process_with_one_warning(
    program: Callable[[], None], code: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code is None:
        folder.write_text("a file in the place of the folder")
    else:

        def full(path: Path, content: bytes) -> None:
            raise OSError(code, os.strerror(code), str(path))

        monkeypatch.setattr(disk_cache, "write_whole", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program()
        program()
    (warning,) = caught
    assert issubclass(warning.category, RuntimeWarning)
    for part in (repr(str(folder)), os.strerror(code or errno.ENOTDIR), "OPERANT_GPU_CACHE"):
        assert part in str(warning.message)
    assert not folder.is_dir() or not any(one.is_file() for one in folder.rglob("*"))


def test_a_folder_that_is_read_only_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpp_program()
    monkeypatch.setattr(disk_cache, "write_whole", None)
    monkeypatch.setattr(disk_cache, "remove", None)
    cpp_program()


def test_the_folder_may_be_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPERANT_GPU_CACHE", "~/kept")
    path = disk_cache.keep("kind", "key", ".so", CONTENT)
    assert path is not None
    assert path.parent == tmp_path / "kept" / "kind"
    monkeypatch.setenv("OPERANT_GPU_CACHE", "~nobody_such_user/kept")
    with pytest.raises(InvalidConfig, match=r"^OPERANT_GPU_CACHE: '~nobody_such_user/kept' begins with"):
        disk_cache.find("kind", "key")
    monkeypatch.delenv("OPERANT_GPU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert disk_cache.keep("kind", "key", ".so", CONTENT) == tmp_path / "xdg" / "operant_gpu" / "kind" / path.name
    shutil.rmtree(tmp_path / "xdg")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert disk_cache.keep("kind", "key", ".so", CONTENT) == tmp_path / ".cache" / "operant_gpu" / "kind" / path.name


def test_without_a_home_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPERANT_GPU_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError(number)

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(disk_cache, "write_whole", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(RuntimeWarning, match="cannot be kept in '/~/.cache/operant_gpu': .*OPERANT_GPU_CACHE"):
        assert disk_cache.keep("kind", "key", ".so", CONTENT) is None
