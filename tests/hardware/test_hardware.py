"""What is said of a machine whose system files are made up: sockets, containers, GPUs and none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import linnet
from linnet.hardware.gpus import Gpu, read_gpus
from linnet.hardware.processor import Cache, read_processor
from linnet.hardware.report import hardware_info


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    """Two sockets of two cores of two threads, numbered as Linux does; a processor that is switched off (8) is no part of it."""
    write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nmodel name\t: Wide 9000\n", "sys/devices/system/cpu/online": "0-6,7\n"})
    for cpu in range(9):
        core, folder = cpu % 4, f"sys/devices/system/cpu/cpu{cpu}"
        siblings, package = f"{core},{core + 4}\n", "0-1,4-5\n" if core < 2 else "2-3,6-7\n"
        write(
            tmp_path,
            {
                f"{folder}/topology/physical_package_id": f"{core // 2}\n",
                f"{folder}/topology/thread_siblings_list": siblings,
                **{f"{folder}/cache/index0/{name}": text for name, text in cache_files(1, "Data", "48K", siblings).items()},
                **{f"{folder}/cache/index3/{name}": text for name, text in cache_files(3, "Unified", "32M", package).items()},
            },
        )
    write(tmp_path, {"proc/meminfo": "MemTotal: 64000 kB\nMemFree: 1 kB\nMemAvailable: 32000 kB\n"})
    return tmp_path


def cache_files(level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    return {"level": f"{level}\n", "type": f"{kind}\n", "size": f"{size}\n", "shared_cpu_list": shared}


def test_sockets_cores_and_caches_are_counted_once(two_sockets):
    found = read_processor(two_sockets)
    assert (found.name, found.sockets, found.cores, found.threads, found.quota) == ("Wide 9000", 2, 4, 8, None)
    assert found.caches == (Cache(1, "Data", 48 * 2**10, 4), Cache(3, "Unified", 32 * 2**20, 2))


def test_a_container_limits_processors_and_memory(two_sockets):
    group = "sys/fs/cgroup/"
    write(two_sockets, {group + "cpu.max": "150000 100000\n", group + "memory.max": "20000000\n"})
    write(two_sockets, {group + "memory.current": "9000000\n", group + "memory.stat": "inactive_file 1000000\nactive_file 2000000\n"})
    found = hardware_info(measure=False, root=two_sockets)
    assert (found.processor.quota, found.processor.default_threads) == (1.5, 1)
    assert (found.memory_bytes, found.memory_limit, found.available_bytes) == (64_000 * 1024, 20_000_000, 14_000_000)
    assert found.read_bandwidth is None
    write(two_sockets, {group + "cpu.max": "max 100000\n", group + "memory.max": "max\n"})
    unlimited = hardware_info(measure=False, root=two_sockets)
    assert (unlimited.processor.quota, unlimited.memory_limit, unlimited.available_bytes) == (None, None, 32_000 * 1024)


def test_a_system_that_tells_nothing(tmp_path):
    found = hardware_info(measure=False, root=tmp_path)
    assert (found.processor.sockets, found.processor.cores, found.processor.caches, found.memory_bytes) == (None, None, (), None)
    assert found.processor.threads == os.cpu_count()
    assert found.processor.isa in found.processor.isas


def test_an_instruction_set_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("LINNET_ISA", "mmx")
    with pytest.raises(linnet.InvalidRequestError, match="'mmx' is not available on this processor"):
        hardware_info(measure=False)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Sets what a program of that name does, the first on the path; PyTorch finds no device, as on a machine without."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr("linnet.hardware.gpus._torch_devices", dict)

    return install


def test_gpus_as_nvidia_smi_tells(nvidia_smi):
    nvidia_smi(
        "echo 'GPU-6c1a, NVIDIA H200, 550.54.15, 143771, 143000, 37, 31'\n"
        "echo 'GPU-77aa, NVIDIA T4, 550.54.15, 15360, [N/A], [Not Supported], [N/A]'"
    )
    gpus, notes = read_gpus()
    assert gpus == [
        Gpu("NVIDIA H200", None, "550.54.15", 143771 * 2**20, 143000 * 2**20, 37.0, 31.0),
        Gpu("NVIDIA T4", None, "550.54.15", 15360 * 2**20),
    ]
    assert len(notes) == 1
    assert "PyTorch" in notes[0]


def test_what_pytorch_finds_is_matched_by_uuid(nvidia_smi, monkeypatch):
    """CUDA_VISIBLE_DEVICES may hide and reorder them."""
    nvidia_smi("echo 'GPU-aa, One, 1.0, 100, 50, 1, 30'; echo 'GPU-bb, Two, 1.0, 200, 60, 2, 40'")
    visible = {"bb": Gpu("Two", "cuda:0"), "xpu:0": Gpu("Other", "xpu:0")}
    monkeypatch.setattr("linnet.hardware.gpus._torch_devices", lambda: visible)
    gpus, notes = read_gpus()
    assert [(gpu.name, gpu.device, gpu.driver) for gpu in gpus] == [
        ("One", None, "1.0"),
        ("Two", "cuda:0", "1.0"),
        ("Other", "xpu:0", None),
    ]
    assert notes == []


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("echo no devices; exit 6", "nvidia-smi failed with exit code 6: no devices"),
        ("exit 9", "nvidia-smi failed with exit code 9: no reason given"),
        ("echo one, two", "nvidia-smi gave 2 fields where 7 were asked for"),
    ],
)
def test_a_failing_nvidia_smi_is_said_to_fail(nvidia_smi, script, note):
    nvidia_smi(script)
    assert read_gpus() == ([], [note])


AMD = {
    "vendor": "0x1002\n",
    "device": "0x744c\n",
    "mem_info_vram_total": f"{24 * 2**30}\n",
    "mem_info_vram_used": f"{2**30}\n",
    "gpu_busy_percent": "37\n",
    "hwmon/hwmon3/temp1_label": "edge\n",
    "hwmon/hwmon3/temp1_input": "45000\n",
    "hwmon/hwmon3/temp2_label": "junction\n",
    "hwmon/hwmon3/temp2_input": "61000\n",
}
XE = {
    "vendor": "0x8086\n",
    "device": "0xe20b\n",
    "tile0/physical_vram_size_bytes": f"{12 * 2**30}\n",
    "tile0/gt0/gtidle/idle_residency_ms": "5000\n",
    "hwmon/hwmon4/temp2_label": "pkg\n",
    "hwmon/hwmon4/temp2_input": "52000\n",
    "hwmon/hwmon4/temp3_label": "vram\n",
    "hwmon/hwmon4/temp3_input": "60000\n",
}
I915 = {"vendor": "0x8086\n", "device": "0x46a6\n"}
PCI_IDS = "# comment\n1002  Advanced Micro Devices\n\t744c  Navi 31\n\t\t1da2 471e  NITRO+\n8086  Intel\n\te20b  Battlemage G21\n"


def write_cards(root: Path, **cards: tuple[str, str, dict[str, str]]) -> None:
    """Cards by name: their PCI addresses, drivers and files, linked together as Linux does."""
    for name, (address, driver, files) in cards.items():
        device, card = root / "sys/devices/pci0000:00" / address, root / "sys/class/drm" / name
        write(device, files)
        (root / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(root / "sys/bus/pci/drivers" / driver)
        card.mkdir(parents=True)
        (card / "device").symlink_to(device)


def test_gpus_of_amd_and_intel_as_their_drivers_tell(tmp_path, monkeypatch):
    monkeypatch.setattr("linnet.hardware.gpus._torch_devices", dict)
    write_cards(tmp_path, card0=("0000:03:00.0", "amdgpu", AMD), card1=("0000:04:00.0", "xe", XE), card2=("0000:00:02.0", "i915", I915))
    write_cards(tmp_path, **{"card0-DP-1": ("0000:09:00.0", "amdgpu", AMD), "card9": ("0000:05:00.0", "nouveau", {"vendor": "0x10de\n"})})
    write(tmp_path, {"sys/module/amdgpu/version": "6.8.5\n", "usr/share/hwdata/pci.ids": PCI_IDS})
    write(tmp_path, {"sys/class/drm/card2/gt/gt0/rc6_residency_ms": "9\n"})
    gpus, notes = read_gpus(tmp_path)
    assert gpus == [
        Gpu("AMD Navi 31", None, "amdgpu 6.8.5", 24 * 2**30, 23 * 2**30, 37, 45.0),
        Gpu("Intel Battlemage G21", None, "xe", 12 * 2**30, None, 100.0, 52.0),
        Gpu("Intel GPU 0x46a6", None, "i915", None, None, 100.0, None),
    ]
    assert len(notes) == 1


def test_an_intel_gpu_is_as_busy_as_it_does_not_idle(tmp_path, monkeypatch):
    monkeypatch.setattr("linnet.hardware.gpus._torch_devices", dict)
    write_cards(tmp_path, card0=("0000:04:00.0", "xe", XE))
    idle = tmp_path / "sys/devices/pci0000:00/0000:04:00.0/tile0/gt0/gtidle/idle_residency_ms"
    now = [50.0]

    def sleep(seconds):
        now[0] += 0.2
        idle.write_text("5150\n")

    clock = type("", (), {"perf_counter": staticmethod(lambda: now[0]), "sleep": staticmethod(sleep)})
    monkeypatch.setattr("linnet.hardware.gpu_files.time", clock)
    assert read_gpus(tmp_path)[0][0].load == 25.0


def test_what_pytorch_finds_of_amd_is_matched_by_its_place_on_the_bus(tmp_path, monkeypatch):
    write_cards(tmp_path, card0=("0000:03:00.0", "amdgpu", AMD), card1=("0000:83:00.0", "amdgpu", {**AMD, "product_name": "Radeon PRO"}))
    visible = {"0000:83:00.0": Gpu("Radeon", "cuda:0", total_bytes=1, free_bytes=2)}
    monkeypatch.setattr("linnet.hardware.gpus._torch_devices", lambda: visible)
    first, second = read_gpus(tmp_path)[0]
    assert (first.device, second.device, second.name) == (None, "cuda:0", "Radeon PRO")
    assert (second.total_bytes, second.free_bytes, second.temperature) == (24 * 2**30, 23 * 2**30, 45.0)


def test_a_container_of_version_one_limits_processors_and_memory(two_sockets):
    write(two_sockets, {"proc/self/cgroup": "12:cpu,cpuacct:/docker/1a\n4:memory:/docker/1a\n1:name=systemd:/\n0::/\n"})
    group = "sys/fs/cgroup/cpu,cpuacct/docker/1a/"
    write(two_sockets, {group + "cpu.cfs_quota_us": "250000\n", group + "cpu.cfs_period_us": "100000\n"})
    write(two_sockets, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"})
    group = "sys/fs/cgroup/memory/docker/1a/"
    write(two_sockets, {group + "memory.limit_in_bytes": "20000000\n", group + "memory.usage_in_bytes": "9000000\n"})
    write(two_sockets, {group + "memory.stat": "inactive_file 1\ntotal_inactive_file 1000000\ntotal_active_file 2000000\n"})
    unlimited = "9223372036854771712\n"
    write(two_sockets, {"sys/fs/cgroup/memory/memory.limit_in_bytes": unlimited, "sys/fs/cgroup/memory/memory.usage_in_bytes": "99\n"})
    found = hardware_info(measure=False, root=two_sockets)
    assert (found.processor.quota, found.memory_limit, found.available_bytes) == (2.5, 20_000_000, 14_000_000)


def test_the_tightest_of_nested_groups_counts(two_sockets):
    """As systemd nests them: a slice's limit holds for the services within."""
    write(two_sockets, {"proc/self/cgroup": "0::/user.slice/app.scope\n"})
    group = "sys/fs/cgroup/user.slice/"
    write(two_sockets, {group + "memory.max": "9000000\n", group + "memory.current": "8000000\n", group + "cpu.max": "100000 100000\n"})
    write(two_sockets, {group + "app.scope/memory.max": "30000000\n", group + "app.scope/memory.current": "5000000\n"})
    write(two_sockets, {group + "app.scope/cpu.max": "max 100000\n"})
    found = hardware_info(measure=False, root=two_sockets)
    assert (found.processor.quota, found.memory_limit, found.available_bytes) == (1.0, 9_000_000, 1_000_000)


def test_the_record_is_json(two_sockets):
    record = json.loads(json.dumps(hardware_info(measure=False, root=two_sockets).record()))
    assert record["processor"]["caches"][0] == {"level": 1, "kind": "Data", "nbytes": 49152, "count": 4}
