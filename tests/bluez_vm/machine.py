"""A machine with a real kernel, a real bluetoothd and virtual controllers: `make test-bluez-vm`.

The kernel is Debian's, unpacked below build/; the machine's root is this one's, read-only over 9p with an overlay in
memory, so that it runs this very checkout, wherever it lies. It needs no hardware virtualisation, only patience.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "bluez-vm"
SKIP = "COMBOIO_SKIP_VM"
WITHIN_S = 1500
PATHS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/libexec/bluetooth"])
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "bluetoothd": "bluez",
    "dbus-daemon": "dbus",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "modprobe": "kmod",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
}
MODULES = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "bluetooth",
    "hci_vhci",
    "cmac",
    "ecb",
    "algif_hash",
    "algif_skcipher",
    "uhid",
]
APPLETS = ["sh", "mount", "insmod", "mkdir", "switch_root", "poweroff", "sleep"]
INIT = """\
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read m; do insmod /mod/$m; done < /mod/order
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose hostroot /mnt/lower || poweroff -f
mount -t tmpfs tmpfs /mnt/tmp; mkdir /mnt/tmp/u /mnt/tmp/w
mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/tmp/u,workdir=/mnt/tmp/w overlay /newroot
for m in proc sys dev; do mount --move /$m /newroot/$m; done
exec switch_root /newroot /bin/sh {guest}
"""
GUEST = """\
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONPATH={root} PYTHONDONTWRITEBYTECODE=1
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib/bluetooth 2>/dev/null
mkdir -p /run/dbus /dev/pts /dev/shm; mount -t devpts pts /dev/pts; ip link set lo up 2>/dev/null
[ -e /usr/lib/modules ] || ln -s {modules} /usr/lib/modules
unset DBUS_SYSTEM_BUS_ADDRESS; dbus-daemon --system --fork
cd {root}; timeout {within} {python} -m tests.bluez_vm.inside
dmesg | grep -i bluetooth | tail -5
echo o > /proc/sysrq-trigger; sleep 60
"""


def missing() -> list[str]:
    """Packages that are not installed."""
    return sorted({package for program, package in PROGRAMS.items() if shutil.which(program, path=PATHS) is None})


def kernel() -> Path:
    """Debian's, unpacked once. Raises OSError with what to do."""
    at = FOLDER / "kernel"
    if not (at / "ready").exists():
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir(parents=True)
        said = run("apt-cache", "depends", "linux-image-amd64")
        found = re.search(r"Depends: (linux-image-\S+)", said)
        if found is None:
            raise OSError("apt knows no linux-image-amd64: this needs Debian's package lists (apt-get update)")
        run("apt-get", "download", found[1], cwd=at)
        (package,) = at.glob("*.deb")
        run("dpkg-deb", "-x", str(package), str(at))
        package.unlink()
        run("depmod", "-b", str(at), version(at))
        (at / "ready").touch()
    return at


def version(at: Path) -> str:
    (found,) = (at / "lib" / "modules").iterdir()
    return found.name


def initial_disk(at: Path, guest: Path) -> Path:
    """busybox, and the modules it takes to reach this machine's root."""
    tree = FOLDER / "initial"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("bin", "proc", "sys", "dev", "mnt/lower", "mnt/tmp", "newroot", "mod"):
        (tree / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox", path=PATHS)), tree / "bin" / "busybox")
    for name in APPLETS:
        (tree / "bin" / name).symlink_to("busybox")
    order = list(dict.fromkeys(modules(at)))
    for module in order:
        shutil.copy(module, tree / "mod" / module.name)
    (tree / "mod" / "order").write_text("".join(f"{module.name}\n" for module in order))
    init = tree / "init"
    init.write_text(INIT.format(guest=guest))
    init.chmod(init.stat().st_mode | stat.S_IXUSR)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    disk = FOLDER / "initial.cpio"
    with disk.open("wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), stdout=out, cwd=tree, check=True)
    return disk


def modules(at: Path) -> Iterator[Path]:
    """In the order of loading."""
    for name in MODULES:
        shown = run("modprobe", "-d", str(at), "-S", version(at), "--show-depends", name)
        for line in shown.splitlines():
            if line.startswith("insmod "):
                yield Path(line.split()[1])


def boot(at: Path, disk: Path) -> bool:
    """Run it to its end, passing on what it says. True if everything held."""
    (image,) = (at / "boot").glob("vmlinuz-*")
    command = [
        *("qemu-system-x86_64", "-machine", f"q35,accel={os.environ.get('COMBOIO_VM_ACCEL', 'tcg')}", "-cpu", "max"),
        *("-smp", "2", "-m", "1500", "-nographic", "-no-reboot", "-nic", "none"),
        *("-kernel", str(image), "-initrd", str(disk)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests=1"),
        *("-fsdev", "local,id=r,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=r,mount_tag=hostroot"),
    ]
    passed = False
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as vm:
        assert vm.stdout is not None
        enough = threading.Timer(WITHIN_S, vm.kill)  # also of a machine that says nothing at all
        enough.start()
        try:
            for line in vm.stdout:
                print(line.rstrip(), flush=True)
                passed = "bluez-vm: passed" in line
                if passed or "bluez-vm: failed" in line:
                    break
        finally:
            enough.cancel()
            vm.kill()
    return passed


def run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, check=True, capture_output=True, text=True, env=os.environ | {"PATH": PATHS}
        )
    except subprocess.CalledProcessError as error:
        raise OSError(f"{' '.join(command)}: {error.stderr.strip()}") from error
    return done.stdout


def main() -> int:
    if os.environ.get(SKIP):
        print(f"bluez-vm: left out, because {SKIP} is set: nothing was tried against a real BlueZ")
        return 0
    if lacking := missing():
        print(f"bluez-vm: can't run. As root: apt-get install --no-install-recommends {' '.join(lacking)}")
        print(f"bluez-vm: or leave it out knowingly: {SKIP}=1")
        return 1
    began_s = time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        at = kernel()
        guest = FOLDER / "guest.sh"
        settings = {"root": ROOT, "modules": at / "lib" / "modules", "python": sys.executable, "within": WITHIN_S}
        guest.write_text(GUEST.format(**settings))
        disk = initial_disk(at, guest)
    except OSError as error:
        print(f"bluez-vm: can't run: {error}")
        print(f"bluez-vm: mend that, or leave it out knowingly: {SKIP}=1")
        return 1
    passed = boot(at, disk)
    print(f"bluez-vm: {'passed' if passed else 'FAILED'} after {time.monotonic() - began_s:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
