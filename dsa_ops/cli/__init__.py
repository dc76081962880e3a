"""The command line: what is installed, whether it is right, and what it does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from . import check, demo, info

_BAD_ARGUMENT = 2  # as argparse exits
_INTERRUPTED = 130  # what shells report for a command that Ctrl-C ended


def _device(text: str) -> torch.device:
    """A device that is there."""
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text}") from None
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise argparse.ArgumentTypeError(
            f"must be cpu or one of the CUDA devices (there are {count}), got {text}"
        )
    return device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dsa_ops", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    commands.add_parser("info", help="versions, which implementation runs and why, kernels")
    commands.add_parser("check", help="every op against its float64 reference on this machine")
    run = commands.add_parser("demo", help="a text through one DeepSeek-V3.2 attention layer")
    run.add_argument("--text", type=Path, help="a file to read (default: the one that ships)")
    run.add_argument("--context", type=int, help="tokens (bytes) to prefill; the text repeats")
    run.add_argument("--decode", type=int, default=32, help="tokens to decode after the prefill")
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print one JSON document")
    for command in (commands.choices["check"], run):
        command.add_argument(
            "--device",
            type=_device,
            default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            help="where to run (default: cuda if there is one)",
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, say) has gone. At exit Python flushes stdout again: to nowhere, now.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(args: argparse.Namespace) -> int:
    status = 0
    if args.command == "info":
        report, text = info.collect(), info.render
    elif args.command == "check":
        report, text = check.run(args.device), check.render
        status = 0 if report["passed"] else 1
    else:
        try:
            plan = demo.plan(args.device, args.text, args.context, args.decode)
        except ValueError as error:
            print(error, file=sys.stderr)
            return _BAD_ARGUMENT
        try:
            report, text = demo.run(plan), demo.render
        except torch.OutOfMemoryError:
            print(
                f"demo: context must fit the memory of {args.device}, got {plan.context} tokens",
                file=sys.stderr,
            )
            return _BAD_ARGUMENT
    print(json.dumps(report, indent=2, allow_nan=False) if args.json else text(report), flush=True)
    return status
