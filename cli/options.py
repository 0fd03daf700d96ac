"""How a command's options are declared where Typer must not be loaded.

A command that has to start fast is a plain function of keyword-only parameters, each annotated
`Annotated[type, Option(…)]`. `commands` makes a Typer command of it, `fast` reads a plain command
line by the same annotations: an option is declared once.
"""

from typing import Annotated, Any, get_args


class Option:
    """One option: its long name, and what Typer's `Option` takes besides."""

    __slots__ = ("name", "words")

    def __init__(self, name: str, **words: Any) -> None:
        self.name = name
        self.words = words

    @property
    def least(self) -> Any:
        """The smallest value allowed, None if any is."""
        return self.words.get("min")


def declared(annotation: Any) -> tuple[Any, Option]:
    """The type and the option of an annotated parameter: `str | None` counts as `str`."""
    kind, option = get_args(annotation)
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return (kinds[0] if kinds else kind), option


SERVER = Option(
    "--server",
    metavar="URL",
    show_default=False,
    help="The server. Else EDGEREPLICA_SERVER, the config file, http://localhost:8787.",
)
JSON = Option("--json", help="Print JSON, errors too (those on standard error).")

ServerOption = Annotated[str | None, SERVER]
JsonOption = Annotated[bool, JSON]
