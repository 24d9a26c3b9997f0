"""The directive `command-line`: documents an argparse parser, with its commands below it.

    ```{command-line} scalems.local:parser
    ```

What it names is a parser, or a function that returns one.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandLine(SphinxDirective):
    """Shows usage, options and epilog of a parser; each of its commands is a section."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the parser."""
        module, _, name = self.arguments[0].partition(":")
        found = getattr(importlib.import_module(module), name)
        parser = found if isinstance(found, argparse.ArgumentParser) else found()
        return list(describe(parser, self.state.document))


def describe(parser: argparse.ArgumentParser, document: nodes.document) -> Iterator[nodes.Node]:
    """Yield what a parser does, how it is used, its options, its commands."""
    usage = parser.format_usage().strip()
    usage = usage[len("usage: ") :] if usage.lower().startswith("usage: ") else usage
    for paragraph in (parser.description or "").strip().split("\n\n"):
        yield nodes.paragraph("", " ".join(paragraph.split()))
    yield text_block(
        "\n".join(line[7:] if line[:7].isspace() else line for line in usage.split("\n"))
    )
    commands: list[tuple[str, argparse.ArgumentParser]] = []
    for group in parser._action_groups:
        options = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                commands += action.choices.items()
            elif action.help != argparse.SUPPRESS:
                options.append(option(action, parser))
        if options:
            yield nodes.paragraph("", "", nodes.strong("", (group.title or "options").capitalize()))
            yield nodes.definition_list("", *options)
    if parser.epilog:
        yield text_block(parser.epilog.strip())
    for _, command in commands:
        section = nodes.section(ids=[nodes.make_id(command.prog)], names=[command.prog])
        document.note_implicit_target(section)
        section += nodes.title("", "", nodes.literal("", command.prog))
        section += list(describe(command, document))
        yield section


def option(action: argparse.Action, parser: argparse.ArgumentParser) -> nodes.definition_list_item:
    """Return an option with its help."""
    formatter = argparse.HelpFormatter(parser.prog)
    spelling = formatter._format_action_invocation(action)
    about = formatter._expand_help(action) if action.help else ""
    return nodes.definition_list_item(
        "",
        nodes.term("", "", nodes.literal("", spelling)),
        nodes.definition("", nodes.paragraph("", about)),
    )


def text_block(text: str) -> nodes.literal_block:
    """Return text as it is, without highlighting."""
    return nodes.literal_block(text, text, language="text")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
