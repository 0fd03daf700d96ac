"""Typer commands made of plain functions: the slow half of what `options` declares."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args

import typer

from .options import Option, declared


def as_typer_option(option: Option) -> Any:
    return typer.Option(option.name, **option.words)


def as_typer_command(function: Callable[..., None]) -> Callable[..., None]:
    """The same command for Typer: it takes the server from the root where it names none itself."""

    @wraps(function)
    def command(ctx: typer.Context, **values: Any) -> None:
        values["server"] = values["server"] or ctx.find_root().params.get("server")
        function(**values)

    context = Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *map(_typed, signature(function).parameters.values())]
    vars(command)["__signature__"] = Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _typed(parameter: Parameter) -> Parameter:
    kind = get_args(parameter.annotation)[0]
    option = as_typer_option(declared(parameter.annotation)[1])
    return parameter.replace(annotation=Annotated[kind, option])
