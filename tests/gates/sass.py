"""Reads the machine code and resource usage of the built library, as cuobjdump prints them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

_ARCHITECTURE = re.compile(r"^(?:arch = |\s*code for )(\w+)$", re.MULTILINE)
_FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
# "/*0060*/  @!P0 BRA 0x180 ;": the address, an optional predicate, the opcode and its modifiers.
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


@dataclass
class Kernel:
    """One compiled instance of a kernel."""

    symbol: str
    opcodes: Counter[str] = field(default_factory=Counter)  # without modifiers
    registers: int = 0
    stack_bytes: int = 0
    local_bytes: int = 0

    @property
    def name(self) -> str:
        """The kernel's name without namespaces and template arguments."""
        return unqualified_name(self.symbol)


def unqualified_name(symbol: str) -> str:
    """``_ZN7dsa_ops4topk11topk_kernelILi8EEEvi`` -> ``topk_kernel``."""
    position = symbol.find("N") + 1 if symbol.startswith("_ZN") else 2
    name = ""
    while length := re.match(r"L?(\d+)", symbol[position:]):
        start = position + length.end()
        position = start + int(length.group(1))
        name = symbol[start:position]
    return name


def architectures(text: str) -> set[str]:
    """Every architecture that ``cuobjdump -sass`` found code for."""
    return set(_ARCHITECTURE.findall(text))


def kernels(sass: str, usage: str) -> list[Kernel]:
    """All kernels in the output of ``-sass`` and of ``--dump-resource-usage``."""
    parts = _FUNCTION.split(sass)[1:]
    by_symbol = {
        symbol: Kernel(symbol, Counter(op.split(".")[0] for op in _INSTRUCTION.findall(code)))
        for symbol, code in zip(parts[::2], parts[1::2], strict=True)
    }
    for symbol, registers, stack, local in _USAGE.findall(usage):
        kernel = by_symbol[symbol]
        kernel.registers, kernel.stack_bytes = int(registers), int(stack)
        kernel.local_bytes = int(local)
    return list(by_symbol.values())


@dataclass(frozen=True)
class Expectation:
    """What a kernel is meant to be made of."""

    required: frozenset[str]
    max_registers: int


def problems(kernel: Kernel, expected: Expectation) -> list[str]:
    found = [f"no {opcode}" for opcode in sorted(expected.required - kernel.opcodes.keys())]
    forbidden = {"LDL", "STL"}  # local memory
    if expected.required & {"HGMMA", "QGMMA"}:
        forbidden.add("HMMA")  # the older tensor-core path
    found += [f"has {opcode}" for opcode in sorted(forbidden & kernel.opcodes.keys())]
    if not 0 < kernel.registers <= expected.max_registers:
        found.append(f"{kernel.registers} registers, at most {expected.max_registers} are meant")
    if kernel.stack_bytes or kernel.local_bytes:
        found.append(f"{kernel.stack_bytes} bytes of stack, {kernel.local_bytes} of local memory")
    return [f"{kernel.name}: {problem}" for problem in found]
