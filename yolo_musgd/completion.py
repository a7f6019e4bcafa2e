"""Completion of commands, arguments and their values for bash, zsh and fish, from the one table of commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from yolo_musgd.commands import COMMANDS, arguments
from yolo_musgd.edge.errors import UserError

_OTHERS = ("help", "completion", "version")


def _values() -> dict[str, list[str]]:
    """``command:argument`` -> the words it takes, where they can be listed."""
    return {f"{name}:{a.name}": list(a.choices) for name in COMMANDS for a in arguments(name) if a.choices}


def _cases(rows: dict[str, list[str]]) -> str:
    """Arms of a ``case`` that set ``choices``, in the words that bash and zsh share."""
    return "\n".join(f"        {key}) choices='{' '.join(words)}';;" for key, words in rows.items())


def _arguments() -> dict[str, list[str]]:
    """Command -> what may follow it."""
    rows = {name: [f"{a.name}=" for a in arguments(name)] for name in COMMANDS}
    return {**rows, "help": [*COMMANDS, "completion"], "completion": list(SHELLS)}


def bash() -> str:
    """The script for bash; values that are not listed are completed as files."""
    return f"""# yolo-musgd completion bash > ~/.local/share/bash-completion/completions/yolo-musgd
_yolo_musgd() {{
    local line=${{COMP_LINE:0:COMP_POINT}} choices= current command key
    current=${{line##*[[:space:]]}}
    command=${{COMP_WORDS[1]}}
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W '{" ".join([*COMMANDS, *_OTHERS])}' -- "$current"))
        return
    fi
    if [[ $current == *=* ]]; then
        key=${{current%%=*}}
        case $command:$key in
{_cases(_values())}
        esac
        current=${{current#*=}}
        if [[ $choices ]]; then
            COMPREPLY=($(compgen -W "$choices" -- "$current"))
        else
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
        fi
        return
    fi
    case $command in
{_cases(_arguments())}
    esac
    compopt -o nospace
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
}}
complete -F _yolo_musgd yolo-musgd"""


def zsh() -> str:
    """The script for zsh; values that are not listed are completed as files."""
    return f"""# source <(yolo-musgd completion zsh), at the end of ~/.zshrc
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}
_yolo_musgd() {{
    local choices= command=$words[2] key
    if (( CURRENT == 2 )); then
        compadd -- {" ".join([*COMMANDS, *_OTHERS])}
        return
    fi
    if [[ $PREFIX == *=* ]]; then
        key=${{PREFIX%%=*}}
        compset -P '*='
        case ${{command}}:${{key}} in
{_cases(_values())}
        esac
        if [[ -n $choices ]]; then compadd -- ${{=choices}}; else _files; fi
        return
    fi
    case $command in
{_cases(_arguments())}
    esac
    compadd -S '' -- ${{=choices}}
}}
compdef _yolo_musgd yolo-musgd"""


def fish() -> str:
    """The script for fish; values that are not listed are completed as files."""
    lines = ["# yolo-musgd completion fish > ~/.config/fish/completions/yolo-musgd.fish"]
    lines += ["complete -c yolo-musgd -n 'not string match -q \"*=*\" -- (commandline -ct)' -f"]
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    for name, summary in {**summaries, **dict.fromkeys(_OTHERS, "")}.items():
        lines.append(f"complete -c yolo-musgd -n __fish_use_subcommand -a {name} -d {_quoted(summary)}")
    for name in COMMANDS:
        seen = f"'__fish_seen_subcommand_from {name}'"
        for a in arguments(name):
            words = " ".join(f"{a.name}={choice}" for choice in a.choices) or f"{a.name}="
            lines.append(f"complete -c yolo-musgd -n {seen} -a {_quoted(words)} -d {_quoted(a.help)}")
    for name in ("help", "completion"):
        words = _quoted(" ".join(_arguments()[name]))
        lines.append(f"complete -c yolo-musgd -n '__fish_seen_subcommand_from {name}' -a {words}")
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
