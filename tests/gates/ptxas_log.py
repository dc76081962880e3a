"""Reads what ptxas said about each kernel (``-Xptxas -v``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

# ptxas only mentions these, also with --warning-as-error: setmaxnreg was ignored (7508, 7517,
# 7519), or wgmma was serialised (7510, 7511, 7514).
FATAL_ADVISORIES = ("C7508", "C7510", "C7511", "C7514", "C7517", "C7519")

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class KernelReport:
    name: str
    architecture: str
    stack_bytes: int
    spill_bytes: int
    registers: int


def kernel_reports(log: str) -> list[KernelReport]:
    """One report per entry function. Fails on a log whose parts do not match up."""
    parts = _ENTRY.split(log)[1:]
    reports = []
    for name, architecture, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        stack, registers = _STACK.search(text), _REGISTERS.search(text)
        if stack is None or registers is None:
            raise ValueError(f"ptxas log: no resource usage for {name}")
        frame, stores, loads = map(int, stack.groups())
        reports.append(
            KernelReport(name, architecture, frame, stores + loads, int(registers.group(1)))
        )
    return reports


def problems(log: str) -> list[str]:
    """Everything in the log that must not be in a release."""
    found = [
        f"{line.strip()}" for line in log.splitlines() if any(c in line for c in FATAL_ADVISORIES)
    ]
    found += [line.strip() for line in log.splitlines() if "warning" in line.lower()]
    for report in kernel_reports(log):
        if report.architecture != "sm_90a":
            found.append(f"{report.name}: built for {report.architecture}")
        if report.stack_bytes or report.spill_bytes:
            found.append(
                f"{report.name}: {report.stack_bytes} bytes of stack, {report.spill_bytes} spilled"
            )
    return found
