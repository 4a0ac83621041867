from pathlib import Path

import torch

from aweigh_runtime.model.memory import available_bytes, cgroup_available, meminfo_available

MB = 1 << 20


def _group(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_text(content)


def _proc(tmp_path: Path, line: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(f"{line}\n")
    return path


def test_a_container_sees_its_own_limit_less_what_it_uses(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    stat = f"anon {10 * MB}\ninactive_file {20 * MB}\nactive_file {5 * MB}\n"
    _group(root, memory__max=f"{512 * MB}\n", memory__current=f"{112 * MB}\n", memory__stat=stat)

    assert cgroup_available(_proc(tmp_path, "0::/"), root) == [425 * MB]


def test_a_limit_on_a_parent_counts_too(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    _group(root / "pods", memory__max=str(100 * MB), memory__current="0", memory__stat="anon 0")
    _group(root / "pods" / "a", memory__max="max", memory__current="0", memory__stat="anon 0")

    assert cgroup_available(_proc(tmp_path, "0::/pods/a"), root) == [100 * MB]


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    _group(
        root / "memory" / "docker",
        memory__limit_in_bytes=str(300 * MB),
        memory__usage_in_bytes=str(100 * MB),
        memory__stat=f"inactive_file 1\ntotal_inactive_file {30 * MB}\ntotal_active_file 0",
    )

    assert cgroup_available(_proc(tmp_path, "4:cpu,memory:/docker"), root) == [230 * MB]


def test_usage_over_the_limit_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    _group(root, memory__max=str(MB), memory__current=str(2 * MB), memory__stat="anon 1")

    assert cgroup_available(_proc(tmp_path, "0::/"), root) == [0]


def test_without_control_groups_the_machine_decides(tmp_path: Path) -> None:
    assert cgroup_available(tmp_path / "missing", tmp_path) == []
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   2048 kB\n")
    assert meminfo_available(tmp_path / "meminfo") == 2 * MB


def test_this_machine_has_memory_left() -> None:
    assert 0 < available_bytes(torch.device("cpu")) < 1 << 50
