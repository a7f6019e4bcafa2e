"""One grammar for every command: a word means one thing; help and completion from one table; quick answers.

Covers commands.py and completion.py.
"""

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import yolo_musgd
from yolo_musgd import cli, commands, completion
from yolo_musgd.edge.options import help_table

ROOT = Path(__file__).resolve().parents[1]


def test_python_m_and_version(run):
    done = run("python", "-c", "import runpy; runpy.run_module('yolo_musgd', run_name='__main__', alter_sys=True)")
    assert done.returncode == 0
    assert "yolo-musgd help COMMAND" in done.stdout
    for word in ("-v", "-V", "--version", "version"):
        assert run("yolo-musgd", word).stdout.strip() == yolo_musgd.__version__


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_words_mean_one_thing(name):
    keys = {a.name: a for a in commands.arguments(name)}
    if "target" in keys:
        assert "raspberry-pi-5" in keys["target"].choices, "target= is a board"
    if "cfg" in keys:
        assert "training recipe" in keys["cfg"].help
    if "exist_ok" in keys:
        assert {"project", "name", "save_dir"} <= set(keys)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_has_examples_that_the_command_takes_and_a_page(name):
    command = commands.COMMANDS[name]
    keys = {a.name for a in commands.arguments(name)}
    assert len(command.examples) >= (2 if keys else 1)
    for example in command.examples:
        first, *words = example.split()
        assert first == name
        assert {w.partition("=")[0] for w in words if "=" in w} <= keys
        assert f"  yolo-musgd {example}" in cli.help_of(name)
    assert (ROOT / "docs" / command.page).is_file()
    assert "(default None)" not in cli.help_of(name)
    assert command.group in cli.usage()


def test_defaults_read_like_defaults():
    lines = {
        line.split("=")[0].strip(): line.split()[1] for line in cli.help_of("export").splitlines() if "=  " in line
    }
    assert (lines["model"], lines["target"], lines["max_drop"]) == ("required", "x86", "0.01")
    assert help_table([("a", None, "auto"), ("long", 0.7, "share")]) == "  a=          auto\n  long=  0.7  share"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "cfg=quick"], "cfg= is now protocol="),
        (["compare", "target=0.5"], "target= is now goal="),
        (["export", "model=x.pt", "flavour=x86"], "flavour= is now variant="),
        (["completion"], "yolo-musgd completion bash|zsh|fish"),
        (["bench", "model=x", "x=1"], "bench has no argument 'x'"),
        (["detect"], "source= is required"),
        (["val", "model=nowhere.onnx", "source=x"], "no model at nowhere.onnx"),
    ],
)
def test_errors_have_one_form(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("yolo-musgd: ")
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["export", "model=nowhere.pt"],
        ["export", "modle=x"],
        ["prune", "model=nowhere.pt"],
        ["prune", "model=x.pt", "recipe=none"],
        ["pipeline", "data=nowhere.yaml"],
        ["pipeline"],
        ["compare", "data=nowhere.yaml"],
        ["compare", "data=[shapes.yaml,nowhere.yaml]"],
        ["compare", "data=shapes.yaml", "starts=nowhere.pt"],
        ["compare", "epochs=x"],
        ["steptime", "threads=-1"],
    ],
    ids=" ".join,
)
def test_a_bad_argument_loads_neither_torch_nor_ultralytics(words, tmp_path):
    code = f"import sys\nfrom yolo_musgd import cli\ncode = cli.main({words!r})\n"
    code += "print(sorted({'torch', 'ultralytics', 'matplotlib'} & set(sys.modules)))\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip() == "[]", "loaded before the mistake was seen"
    assert len(done.stderr.splitlines()) == 1


def complete(line, tmp_path):
    """What bash offers for a line."""
    file = tmp_path / "c.sh"
    file.write_text(completion.bash())
    code = (
        f"source {file}; compopt() {{ :; }}; COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=($COMP_LINE); "
    )
    code += "[[ $COMP_LINE == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _yolo_musgd; "
    code += "printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    return [word for word in done.stdout.split("\n") if word]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_completion_of_bash(tmp_path):
    (tmp_path / "best.pt").touch()
    assert set(complete("yolo-musgd ", tmp_path)) >= set(commands.COMMANDS)
    assert complete("yolo-musgd exp", tmp_path) == ["export"]
    assert set(complete("yolo-musgd export ", tmp_path)) == {f"{a.name}=" for a in commands.arguments("export")}
    assert complete("yolo-musgd export prec", tmp_path) == ["precision="]
    assert complete("yolo-musgd export precision=", tmp_path) == ["fp32", "fp16", "int8"]
    assert complete("yolo-musgd export precision=i", tmp_path) == ["int8"]
    assert complete("yolo-musgd export model=b", tmp_path) == ["best.pt"]
    for name in ("two words.pt", "*.pt"):
        (tmp_path / name).touch()
        assert complete(f"yolo-musgd export model={name[0]}", tmp_path) == [name]
    assert complete("yolo-musgd bench runtime=nc", tmp_path) == ["ncnn"]
    assert complete("yolo-musgd help ste", tmp_path) == ["steptime"]
    assert complete("yolo-musgd completion ", tmp_path) == ["bash", "zsh", "fish"]


ZSH = """PROMPT='> '; autoload -Uz compinit; compinit -u -D; source {script}
compadd() {{ local -a got; builtin compadd -O got "$@"; print -rl -- $got >> {out}; builtin compadd "$@"; }}
leave() {{ exit; }}; zle -N leave; bindkey '^T' leave; print -r -- $((6 * 7))-ready
"""


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("yolo-musgd exp", {"export"}),
        ("yolo-musgd export prec", {"precision="}),
        ("yolo-musgd export precision=", {"fp32", "fp16", "int8"}),
        ("yolo-musgd export model=b", {"best.pt"}),
        ("yolo-musgd help ste", {"steptime"}),
        ("yolo-musgd completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_completion_of_zsh(line, words, tmp_path):
    script, out, rc = tmp_path / "script", tmp_path / "out", tmp_path / "rc"
    (tmp_path / "best.pt").touch()
    out.touch()
    script.write_text(completion.zsh())
    rc.write_text(ZSH.format(script=script, out=out))
    pid, terminal = pty.fork()  # zsh completes in a terminal only
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "TERM": "dumb"})
    os.write(terminal, f"source {rc}\n".encode())
    seen = b""
    while b"42-ready" not in seen:
        seen += os.read(terminal, 65536)
    os.write(terminal, line.encode() + b"\t\x14")
    with contextlib.suppress(OSError):  # the end of a terminal, on Linux
        while found := os.read(terminal, 65536):
            seen += found
    os.waitpid(pid, 0)
    assert set(out.read_text().split()) == words, seen


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
def test_completion_of_fish(tmp_path):
    (tmp_path / "best.pt").touch()
    (tmp_path / "script").write_text(completion.fish())

    def offered(line):
        code = f"source script; complete -C '{line}'"
        done = subprocess.run(["fish", "-N", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
        return {row.split("\t")[0] for row in done.stdout.splitlines()}

    assert offered("yolo-musgd ") == {*commands.COMMANDS, "help", "completion", "version"}
    assert offered("yolo-musgd export prec") == {"precision=fp32", "precision=fp16", "precision=int8"}
    assert offered("yolo-musgd export model=") == {"model=", "model=best.pt", "model=script"}
    assert offered("yolo-musgd completion ") == {"bash", "zsh", "fish"}


def test_help_of_completion_names_each_shell(capsys):
    for words in (["help", "completion"], ["completion", "--help"]):
        assert cli.main(words) == 0
        out = capsys.readouterr().out
        assert all(f"yolo-musgd completion {shell}" in out for shell in completion.SHELLS)


@pytest.mark.parametrize(("shell", "check"), [("bash", "bash -n"), ("zsh", "zsh -n"), ("fish", "fish --no-execute")])
def test_a_script_is_one_of_its_shell(shell, check, tmp_path):
    text = completion.script([shell])
    assert all(name in text for name in commands.COMMANDS)
    program, *words = check.split()
    if shutil.which(program):
        file = tmp_path / "script"
        file.write_text(text)
        done = subprocess.run([program, *words, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["steptime", "demo", "bundle", "detect", "export"])
def test_save_dir_with_something_in_it_is_refused(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "here" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    extra = {"bundle": ["model=x"], "detect": ["model=x", "source=."], "export": ["model=x.pt"]}.get(command, [])
    assert cli.main([command, "save_dir=here", *extra]) == 2
    assert [p.name for p in tmp_path.rglob("*")] == ["here", "mine.txt"]
    assert kept.read_text() == "mine"
