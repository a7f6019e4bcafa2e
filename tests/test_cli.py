"""The command line: usage, help, one line for what is wrong, exit codes.

Covers doctor.py.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from yolo_musgd import cli, commands, doctor, plugin, resources
from yolo_musgd.optim.registry import REGISTRY, find
from yolo_musgd.settings import SettingsError, check_device
from yolo_musgd.train.settings import argument_names


def test_usage_names_every_command(run):
    done = run("yolo-musgd")
    assert done.returncode == 0
    assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimisers"], "unknown command 'optimisers'; did you mean optimizers?"),
        (["help", "bensh"], "unknown command 'bensh'; did you mean bench?"),
        (["trian"], "that is Ultralytics' own command: yolo train optimizer=MuSGD"),
        (["hlep"], "did you mean help?"),
        (["doctor", "verbose"], "'verbose' is not key=value; see: yolo-musgd help doctor"),
        (["doctor", "x=1"], "yolo-musgd doctor has no argument 'x'"),
        (["export", "best.pt"], "'best.pt' is not key=value, did you mean model=best.pt?; see: yolo-musgd help export"),
        (["compare", "mine.yaml"], "'mine.yaml' is not key=value, did you mean data=mine.yaml?"),
        (["export", "--target", "x86"], "'--target' is not key=value: write target=... as one word"),
    ],
)
def test_bad_words_exit_2_with_one_line(run, words, message):
    done = run("yolo-musgd", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_optimizers_lists_the_registry(run):
    done = run("yolo-musgd", "optimizers")
    assert done.returncode == 0
    for entry in REGISTRY.values():
        line = next(x for x in done.stdout.splitlines() if x.split()[:1] == [entry.name])
        assert entry.description in line
        assert entry.source in line


def test_names_in_any_case_and_a_guess_for_the_rest():
    assert find("musgd").name == "MuSGD"
    assert find("ADAMW").name == "AdamW"
    with pytest.raises(SettingsError, match=r"optimizer=MuSDG is unknown; did you mean MuSGD\?"):
        find("MuSDG")


def test_an_optimizer_that_only_the_host_knows(monkeypatch):
    monkeypatch.delitem(REGISTRY, "NAdam")
    assert find("nadam").host_name == "nadam"


def test_every_argument_of_train_is_known_without_importing_ultralytics():
    from ultralytics.cfg import DEFAULT_CFG_DICT

    plugin.register()
    assert set(argument_names()) == set(DEFAULT_CFG_DICT)


@pytest.mark.parametrize(
    "device", ["cpu", "0", "[0, 1]", "(0,1)", "cuda:1", "-1", "mps", "None", "cuda:0,cuda:1", "xpu:0"]
)
def test_devices_that_ultralytics_may_have(device):
    check_device(device)


@pytest.mark.parametrize(
    "model", ["yolo26n.yaml", "yolov10n.yaml", "yolov8s-seg.yaml", "rtdetr-l.yaml", "yolo11x-pose.yaml"]
)
def test_models_of_ultralytics_are_found_without_it(model):
    resources.check_file("model", "model", model)


def test_doctor(run):
    done = run("yolo-musgd", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ok] plugin" in done.stdout
    assert "active in every `yolo` command" in done.stdout
    assert "[ok] ultralytics" in done.stdout
    assert "[XX]" not in done.stdout


def test_doctor_notices_that_the_hook_was_not_run(run):
    """An interpreter without site: the package can be imported, but nothing activated it."""
    import sys

    code = f"import sys; sys.path[:] = {sys.path!r}; from yolo_musgd.cli import main; sys.exit(main(['doctor']))"
    done = run("python", "-S", "-c", code, fresh=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "[XX] plugin" in done.stdout
    assert "yolo_musgd.pth was not run" in done.stdout


def test_doctor_survives_a_broken_opencv(run, tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    done = run("yolo-musgd", "doctor", env={"PYTHONPATH": str(tmp_path)}, fresh=True)
    assert done.returncode == 2
    assert "libGL.so.1" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_says_why_the_plugin_is_not_active(run):
    done = run("yolo-musgd", "doctor", env={"YOLO_MUSGD": "0"})
    assert "switched off by YOLO_MUSGD=0" in done.stdout
    assert "ready, but switched off" in done.stdout


def test_doctor_sees_a_module_that_a_package_of_another_name_brought(monkeypatch, tmp_path):
    """As onnxruntime-gpu brings onnxruntime: to install that too, as the advice was, would break it."""
    (tmp_path / "module_of_another.py").touch()
    (tmp_path / "module_that_is_nowhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "OPTIONAL", {"module_of_another": "export", "module_that_is_nowhere": "export"})
    here, missing = doctor._extras()
    assert (here.mark, here.text) == (doctor.OK, "installed, by a package of another name")
    assert missing.text.startswith("not installed")


def test_the_boards_commands_are_reached_through_ours(run):
    done = run("yolo-musgd", "bench", "model=nowhere.onnx")
    assert done.returncode == 2
    assert done.stderr.startswith("yolo-musgd: ")  # by the name that was typed; as edge.pyz it says edge
    assert "nowhere.onnx" in done.stderr
    done = run("yolo-musgd", "compare-bench")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_of_every_command(run):
    for name in cli.COMMANDS:
        text = cli.help_of(name)
        assert text.startswith(f"yolo-musgd {name}: {cli.COMMANDS[name].summary}")
    assert run("yolo-musgd", "doctor", "--help").stdout.strip() == cli.help_of("doctor")
    assert run("yolo-musgd", "help", "help").stdout.strip() == cli.usage()


def interrupted(arguments):
    raise KeyboardInterrupt


def test_ctrl_c_exits_130(monkeypatch, capsys):
    monkeypatch.setattr("yolo_musgd.doctor.main", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x"), PermissionError(13, "Denied", "x")])
def test_a_full_or_closed_disk_is_one_line(error, capsys):
    def work():
        raise error

    assert cli.exit_code(work) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prune", "model= is required"),
        ("compare", "a comparison needs data="),
        ("compare protocol=quikc", "protocol=quikc is no protocol"),
        ("compare data=shapes.yaml optimizers=[SDG]", "did you mean SGD?"),
        ("compare data=shapes.yaml train={imgzs:64}", "did you mean imgsz?"),
        ("federate data=shapes.yaml optimizer=SDG", "did you mean SGD?"),
        ("federate data=shapes.yaml imgzs=64", "did you mean imgsz?"),
        ("steptime optimizers=SDG", "got 'SDG'"),
        ("steptime models=yolo26q", "models=yolo26q is not a model of this Ultralytics; try yolo26n"),
        ("steptime device=gpu", "device=gpu is no device"),
        ("demo save_dir=.", "something is in it"),
        ("compare data=shapes.yaml starts=yolo26q.yaml", "yolo26q.yaml does not exist"),
        ("pipeline data=shapes.yaml model=best", "model=best does not exist"),
        ("pipeline data=shapes.yaml cfg=musdg", "cfg=musdg does not exist"),
        ("pipeline data=shapes.yaml teacher=basis", "teacher=basis is no checkpoint"),
        ("pipeline data=shapes.yaml device=gpu", "device=gpu is no device"),
    ],
)
def test_bad_arguments_are_told_before_torch_is_loaded(words, message):
    code = (
        "import sys; from yolo_musgd import cli; code = cli.main(sys.argv[1:]); "
        "print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("command", ["prune", "steptime", "demo"])
def test_a_parent_that_cannot_hold_results_is_found_before_the_work(command, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main([command, f"project={tmp_path / 'file' / 'runs'}"]) == 2
    shown = capsys.readouterr()
    assert "choose another project=" in shown.err
    assert str(tmp_path / "file") in shown.err
    assert "|" not in shown.out, "the table was already made"
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_reader_that_stops_reading_sees_no_traceback():
    beside = Path(sys.executable).with_name("yolo-musgd")
    with subprocess.Popen([beside, "version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 141


@pytest.mark.parametrize("words", ["version", "optimizers", "bogus"])
def test_a_service_without_an_output_sees_no_traceback(words):
    code = f"import os, sys; sys.stdout = None; from yolo_musgd.cli import main; sys.exit(main(['{words}']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if words == "bogus" else 0)
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_keeps_its_traceback():
    def work():
        raise FileNotFoundError(2, "a file that we should have written")

    with pytest.raises(FileNotFoundError):
        cli.exit_code(work)


@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if command.settings])
def test_help_names_every_value_that_a_setting_takes(name):
    shown = cli.help_of(name).splitlines()
    for field in dataclasses.fields(commands.load(cli.COMMANDS[name].settings)):
        line = next(x for x in shown if x.strip().startswith(f"{field.name}="))
        assert all(choice in line for choice in field.metadata["choices"] or ()), line


def test_a_copy_that_the_disk_has_no_room_for_is_one_line(capsys):
    import shutil

    def copy():
        raise shutil.Error([("a", "b", "[Errno 27] File too large: 'b'")])

    assert cli.exit_code(copy) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "File too large" in said
