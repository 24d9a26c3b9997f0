"""Find what makes RADICAL-Pilot's runs fail, before they run. Nothing is changed."""

from __future__ import annotations

import argparse

from scalems.errors import ExitCode


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="only what is not good")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is run")
    parser.add_argument("--resource", metavar="LABEL", help="look at the host of this resource too")
    parser.epilog = (
        "examples:\n  scalems doctor\n  scalems doctor --quiet\n"
        "  scalems doctor --resource lab.cluster     the connection, and what is there\n\n"
        "exit codes: 0 nothing that stops a run, 3 something does"
    )
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from scalems import doctor
    from scalems.cli import render
    from scalems.doctor import Verdict

    found = []
    for diagnosis in doctor.examine(options.resource):
        found.append(diagnosis)
        if not options.json and not (options.quiet and diagnosis.verdict is Verdict.GOOD):
            render.print_diagnosis(diagnosis)
    if options.json:
        render.print_json([diagnosis.to_dict() for diagnosis in found])
    else:
        render.print_verdict(found)
    failed = any(diagnosis.verdict is Verdict.ERROR for diagnosis in found)
    return ExitCode.NOT_READY if failed else ExitCode.DONE
