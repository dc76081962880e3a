"""The command line: what is installed, whether it is right, and what it does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from . import check, demo, info


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
            type=torch.device,
            default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            help="where to run (default: cuda if there is one)",
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "info":
        report, text, status = info.collect(), info.render, 0
    elif args.command == "check":
        report, text = check.run(args.device), check.render
        status = 0 if report["passed"] else 1
    else:
        try:
            plan = demo.plan(args.device, args.text, args.context, args.decode)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        report, text, status = demo.run(plan), demo.render, 0
    print(json.dumps(report, indent=2) if args.json else text(report))
    return status
