"""Which system calls untrusted code may not make, as a filter for the kernel (seccomp, classic BPF).

Namespaces keep it from files, processes and networks, and limits count what each process holds. Left are calls that open a new namespace with
privileges of its own (and file systems of any size), memory that belongs to no process, keys that the caller's session holds, and sockets to
whom no network namespace divides, such as the host of a virtual machine. Those are refused here, as are calls that ordinary programs never make.
"""

from __future__ import annotations

import errno
import platform
import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN, AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # places in struct seccomp_data
NEW_SPACES = 0x7E020080  # the flags of clone that open namespaces
SHARED_NOBODYS = 0x21  # MAP_SHARED | MAP_ANONYMOUS: it outlives who counts for it
INET = (2, 10)
FOREIGN = 0x40000000  # calls of another convention (x32) begin here

# Number on x86_64 and on aarch64.
REFUSED = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "open_by_handle_at": (304, 265), "personality": (135, 92), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
}  # fmt: skip
CLONE, CLONE3, SOCKET, MMAP = (56, 220), (435, 435), (41, 198), (9, 222)


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _refused(number: int) -> bytes:
    return _step(RETURN, REFUSE | number)


def refused_calls(*, network: bool, machine: str | None = None) -> bytes | None:
    """The filter's instructions; `network` allows sockets of the Internet families (which reach nobody in a network namespace of one's own).
    None for a machine whose numbers of calls are not known here."""
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        return None
    column = list(ARCHITECTURES).index(name)
    steps = [_step(LOAD, ARCHITECTURE), _step(EQUAL, ARCHITECTURES[name], 1, 0), _step(RETURN, KILL), _step(LOAD, NUMBER)]
    steps += [_step(AT_LEAST, FOREIGN, 0, 1), _refused(errno.EPERM)]
    for numbers in REFUSED.values():
        steps += [_step(EQUAL, numbers[column], 0, 1), _refused(errno.EPERM)]
    # Without clone3 the C library takes clone, whose flags a filter can read.
    steps += [_step(EQUAL, CLONE3[column], 0, 1), _refused(errno.ENOSYS)]
    steps += [_step(EQUAL, CLONE[column], 0, 4), _step(LOAD, ARGUMENTS), _step(ANY_BIT, NEW_SPACES, 0, 1), _refused(errno.EPERM), _step(RETURN, ALLOW)]
    steps += [_step(EQUAL, MMAP[column], 0, 5), _step(LOAD, ARGUMENTS + 24), _step(AND, SHARED_NOBODYS), _step(EQUAL, SHARED_NOBODYS, 0, 1)]
    steps += [_refused(errno.EPERM), _step(RETURN, ALLOW)]
    families = (1, *INET) if network else (1,)
    checks = [_step(EQUAL, family, len(families) - k, 0) for k, family in enumerate(families)]
    steps += [_step(EQUAL, SOCKET[column], 0, len(checks) + 3), _step(LOAD, ARGUMENTS), *checks, _refused(errno.EAFNOSUPPORT), _step(RETURN, ALLOW)]
    return b"".join([*steps, _step(RETURN, ALLOW)])
