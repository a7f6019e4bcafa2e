"""Completion of commands, arguments and their values for bash, zsh and fish, from the one table of commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from yolo_musgd.commands import COMMANDS, arguments
from yolo_musgd.edge.errors import UserError

_OTHERS = ("help", "completion", "version")


def _values() -> dict[str, list[str]]:
    """``command:argument`` -> the words it takes, where they can be listed."""
    return {f"{name}:{a.name}": list(a.choices) for name in COMMANDS for a in arguments(name) if a.choices}


def bash() -> str:
    """The script for bash; values that are not listed are completed as files."""
    names = " ".join([*COMMANDS, *_OTHERS])
    keys = "\n".join(
        f"        {name}) words='{' '.join(a.name + '=' for a in arguments(name))}';;" for name in COMMANDS
    )
    values = "\n".join(f"        {key}) words='{' '.join(words)}';;" for key, words in _values().items())
    return f"""# yolo-musgd completion bash > ~/.local/share/bash-completion/completions/yolo-musgd
_yolo_musgd() {{
    local line=${{COMP_LINE:0:COMP_POINT}} words= current command key
    current=${{line##*[[:space:]]}}
    command=${{COMP_WORDS[1]}}
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W '{names}' -- "$current"))
        return
    fi
    if [[ $current == *=* ]]; then
        key=${{current%%=*}}
        case $command:$key in
{values}
        esac
        current=${{current#*=}}
        if [[ $words ]]; then
            COMPREPLY=($(compgen -W "$words" -- "$current"))
        else
            COMPREPLY=($(compgen -f -- "$current"))
        fi
        return
    fi
    case $command in
{keys}
        help) words='{" ".join(COMMANDS)}';;
        completion) words='bash zsh fish';;
    esac
    compopt -o nospace
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F _yolo_musgd yolo-musgd"""


def zsh() -> str:
    """The script for zsh, which runs the one for bash."""
    lines = [
        "# source <(yolo-musgd completion zsh), at the end of ~/.zshrc",
        "autoload -U bashcompinit && bashcompinit",
    ]
    return "\n".join([*lines, bash()])


def fish() -> str:
    """The script for fish."""
    lines = ["# yolo-musgd completion fish > ~/.config/fish/completions/yolo-musgd.fish"]
    lines += ["complete -c yolo-musgd -f"]
    for name, command in COMMANDS.items():
        lines.append(f"complete -c yolo-musgd -n __fish_use_subcommand -a {name} -d {_quoted(command.summary)}")
    for name in COMMANDS:
        seen = f"'__fish_seen_subcommand_from {name}'"
        for a in arguments(name):
            words = " ".join(f"{a.name}={choice}" for choice in a.choices) or f"{a.name}="
            lines.append(f"complete -c yolo-musgd -n {seen} -a {_quoted(words)} -d {_quoted(a.help)}")
    lines.append(f"complete -c yolo-musgd -n '__fish_seen_subcommand_from help' -a {_quoted(' '.join(COMMANDS))}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def script(words: Sequence[str]) -> str:
    """The script for the shell that the words name.

    Raises:
        UserError: none, or one that is not known.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        raise UserError(f"completion needs a shell: yolo-musgd completion {'|'.join(SHELLS)}")
    return SHELLS[words[0]]()
