"""`aweigh chat`: a conversation with an endpoint, in a terminal or through a pipe."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from aweigh_api import names
from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    from aweigh_cli.endpoint import Address, Endpoint, Message

DEFAULT_URL = f"http://127.0.0.1:{names.HTTP_PORT}/v1"
PROMPT = "> "
LOADING_S = 600  # longer than any model takes that a person waits for


def chat(  # noqa: PLR0913 - one parameter for each option
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="URL|NAME",
            help="URL of an OpenAI API, or name of an InferenceService of the current kube context."
            f" (default: $OPENAI_BASE_URL or {DEFAULT_URL})",
        ),
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option(help="Name of the model. (default: the endpoint's first)")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    once: Annotated[str | None, typer.Option(help="Ask one question and leave.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of NAME.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=["AWEIGH_API_KEY", "OPENAI_API_KEY"],
            show_envvar=False,
            help="API key; safer in the environment. (default: $AWEIGH_API_KEY or $OPENAI_API_KEY)",
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--cacert",
            envvar="SSL_CERT_FILE",
            show_envvar=False,
            help="Certificates to trust, as PEM. (default: $SSL_CERT_FILE or the usual ones)",
        ),
    ] = None,
    wait: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seconds to wait for an endpoint that does not listen yet or still loads. "
            f"(default: {LOADING_S} if it loads, 0 if it does not listen)",
        ),
    ] = None,
) -> None:
    """Chat with an OpenAI-compatible endpoint.

    Ctrl-C stops an answer, Ctrl-D leaves. Without a terminal, standard input is the question.
    """
    from aweigh_cli.endpoint import Endpoint

    wait_s = LOADING_S if wait is None else wait
    with (
        _address(target, namespace, wait_s) as address,
        Endpoint(
            address,
            api_key=api_key,
            ca_file=ca_file,
            wait_s=wait_s,
            refused_too=wait is not None,
            note=_note,
        ) as endpoint,
    ):
        conversation = Conversation(endpoint, model or _first_model(endpoint, address.url), system)
        if once is not None:
            conversation.ask(once)
        elif sys.stdin.isatty():
            _talk(conversation)
        else:
            conversation.ask(_piped_question())


class Conversation:
    """Questions and answers so far; the endpoint sees all of them each time."""

    def __init__(self, endpoint: "Endpoint", model: str, system: str | None) -> None:
        self.model = model
        self._endpoint = endpoint
        self._messages: list[Message] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})

    def ask(self, question: str) -> None:
        """Print the answer as it comes. Ctrl-C keeps what has come so far."""
        asked = [*self._messages, _message("user", question)]
        pieces: list[str] = []
        try:
            with closing(self._endpoint.answer(self.model, asked)) as answer:
                for piece in answer:
                    pieces.append(piece)
                    typer.echo(piece, nl=False)
        except KeyboardInterrupt:
            typer.echo(" [stopped]", err=True, nl=False)
        finally:
            typer.echo()
        self._messages = [*asked, _message("assistant", "".join(pieces))]


def _talk(conversation: Conversation) -> None:
    import readline  # noqa: F401 - gives input() line editing and history

    typer.echo(f"Chatting with {conversation.model}. Ctrl-C stops an answer, Ctrl-D leaves.")
    while True:
        try:
            question = input(PROMPT).strip()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()
            continue
        if question:
            _ask_and_stay(conversation, question)


def _ask_and_stay(conversation: Conversation, question: str) -> None:
    """A failed question must not end the conversation: the next one may be shorter."""
    try:
        conversation.ask(question)
    except CommandFailure as failure:
        typer.echo(f"error: {failure}", err=True)


def _message(role: str, content: str) -> "Message":
    return {"role": role, "content": content}


def _piped_question() -> str:
    question = sys.stdin.buffer.read().decode(errors="replace").strip()
    if not question:
        raise CommandFailure(
            "standard input is empty; expected a question: pipe one, or use --once",
            ExitStatus.BAD_INPUT,
        )
    return question


def _first_model(endpoint: "Endpoint", url: str) -> str:
    models = endpoint.models()
    if not models:
        raise CommandFailure(f"{url} serves no model; name one with --model if it hides them")
    return models[0]


def _note(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _address(target: str | None, namespace: str | None, wait_s: float) -> "Iterator[Address]":
    from aweigh_cli.endpoint import Address

    if target is None or _is_url(target):
        if namespace is not None:
            raise CommandFailure(
                f"--namespace {namespace} is only for the name of an InferenceService; give a NAME "
                "or remove it",
                ExitStatus.BAD_INPUT,
            )
        yield Address(_completed(target or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL))
        return
    from aweigh_cli.inferenceservice import wait_until_served
    from aweigh_cli.kubectl import port_forward

    inside = urlsplit(wait_until_served(target, namespace, wait_s, _note))
    with port_forward(target, names.HTTP_PORT, namespace) as port:
        yield Address(f"{inside.scheme or 'http'}://127.0.0.1:{port}/v1", inside.hostname)


def _is_url(target: str) -> bool:
    """Names of InferenceServices hold neither; `localhost:8000` is meant as a URL."""
    return ":" in target or "/" in target


def _completed(url: str) -> str:
    """The base URL of the API: http and /v1 may be left out."""
    full = url if "://" in url else f"http://{url}"
    host_only = full.rstrip("/").count("/") == 2
    return full.rstrip("/") + ("/v1" if host_only else "")
