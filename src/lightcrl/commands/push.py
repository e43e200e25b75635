"""`lightcrl push`: a model on the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from lightcrl.arguments import Json, pairs, write


def push(
    model: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a run or of a checkpoint.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository; made if it is not there.")],
    with_encoders: Annotated[
        bool, typer.Option("--with-encoders", help="Carry encoders in local folders along; their licences are shown.")
    ] = False,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", help="modality=OWNER/NAME: the same encoder on the hub.")
    ] = None,
    private: Annotated[bool | None, typer.Option(help="Visibility of a repository that is made.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch; made if it is not there.")] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Push a model of LightCRL",
    json: Json = None,
) -> None:
    """Push a model with its card to the hub; lightcrl.load("owner/name") loads it."""
    from dataclasses import asdict

    from lightcrl.bridges.hub import push as push_model
    from lightcrl.report.bridges_console import print_pushed

    done = push_model(
        model,
        repository,
        with_encoders=with_encoders,
        encoders=pairs(encoder, "--encoder"),
        private=private,
        revision=revision,
        message=message,
    )
    print_pushed(done)
    if json is not None:
        write(json, asdict(done))
