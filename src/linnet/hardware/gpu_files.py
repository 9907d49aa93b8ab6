"""AMD's and Intel's GPUs, as Linux' files tell: what each driver writes under /sys/class/drm."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linnet.system_files import system_text

_AMD, _INTEL = "0x1002", "0x8086"
_MAKERS = {_AMD: "AMD", _INTEL: "Intel"}
_NAMES = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")
_SAMPLE_S = 0.1
"""How long an Intel GPU is watched: its drivers count the time that it idles."""


@dataclass(frozen=True)
class GpuFiles:
    """address: on the PCI bus, "0000:03:00.0". load: of its time, in percent; temperature: degrees Celsius. None: not told."""

    address: str
    maker: str
    name: str
    driver: str | None
    total_bytes: int | None
    free_bytes: int | None
    load: float | None
    temperature: float | None


def read_gpu_files(root: Path = Path("/")) -> list[GpuFiles]:
    """root: the folder that holds sys and usr. Watches Intel's for a tenth of a second."""
    cards = [card for card in sorted((root / "sys/class/drm").glob("card*")) if re.fullmatch(r"card\d+", card.name)]
    cards = [card for card in cards if system_text(card / "device/vendor") in _MAKERS]
    idle, begun = {card: _idle_ms(card) for card in cards}, time.perf_counter()
    if any(idle.values()):
        time.sleep(_SAMPLE_S)
    found = []
    for card in cards:
        watched_ms, counts = (time.perf_counter() - begun) * 1000, zip(idle[card], _idle_ms(card), strict=False)
        loads = [1 - (after - before) / watched_ms for before, after in counts]
        watched = round(100 * min(1.0, max(0.0, *loads)), 1) if loads else None
        found.append(_read_card(root, card, watched))
    return found


def _read_card(root: Path, card: Path, watched: float | None) -> GpuFiles:
    device, maker = card / "device", system_text(card / "device/vendor")
    if maker == _AMD:
        total, used = _number(device / "mem_info_vram_total"), _number(device / "mem_info_vram_used")
        free = None if total is None or used is None else total - used
        load: float | None = _number(device / "gpu_busy_percent")
    else:  # xe tells of each tile, Intel's own builds of i915 of the card; memory of the processor's is nobody's
        tiles = [size for tile in device.glob("tile*") if (size := _number(tile / "physical_vram_size_bytes")) is not None]
        total = sum(tiles) if tiles else _number(card / "lmem_total_bytes")
        free, load = _number(card / "lmem_avail_bytes"), watched
    driver = (device / "driver").resolve().name if (device / "driver").exists() else None
    version = system_text(root / "sys/module" / (driver or "-") / "version")
    return GpuFiles(
        address=device.resolve().name,
        maker=_MAKERS[maker],
        name=system_text(device / "product_name") or _name(root, maker, system_text(device / "device")),
        driver=f"{driver} {version}".strip() if driver else None,
        total_bytes=total,
        free_bytes=free,
        load=load,
        temperature=_temperature(device),
    )


def _idle_ms(card: Path) -> list[int]:
    """Milliseconds that each of an Intel GPU's parts has idled, since it was started: xe's, or i915's."""
    for pattern in ("device/tile*/gt*/gtidle/idle_residency_ms", "gt/gt*/rc6_residency_ms", "power/rc6_residency_ms"):
        counts = [count for file in sorted(card.glob(pattern)) if (count := _number(file)) is not None]
        if counts:
            return counts
    return []


def _temperature(device: Path) -> float | None:
    """Of the whole: AMD calls it "edge", Intel "pkg"; else the first sensor there is."""
    inputs = sorted(device.glob("hwmon/hwmon*/temp*_input"), key=lambda file: (len(file.name), file.name))
    labels = {file: system_text(file.with_name(file.name.replace("_input", "_label"))) for file in inputs}
    for file in (*(file for file in inputs if labels[file] in ("edge", "pkg")), *inputs):
        value = _number(file)
        if value is not None:
            return value / 1000
    return None


def _name(root: Path, vendor: str, device: str) -> str:
    """From the list of PCI devices that systems come with, where it is there."""
    within = False
    for line in _lines(root):
        if not line.startswith(("\t", "#")):
            within = line.startswith(vendor.removeprefix("0x"))
        elif within and line.startswith(f"\t{device.removeprefix('0x')}  "):
            return f"{_MAKERS[vendor]} {line.strip().partition('  ')[2]}"
    return f"{_MAKERS[vendor]} GPU {device}"


def _lines(root: Path) -> Iterator[str]:
    for place in _NAMES:
        if (root / place).is_file():
            yield from (root / place).read_text("utf-8", "replace").splitlines()
            return


def _number(file: Path) -> int | None:
    text = system_text(file)
    return int(text) if text.removeprefix("-").isdecimal() else None
