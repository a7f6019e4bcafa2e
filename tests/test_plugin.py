"""The plugin: hooked in at the interpreter's start, registered, undone, and out of the way where it cannot work.

Covers _autoload.py and resources.py.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from yolo_musgd import plugin
from yolo_musgd.train.settings import missing_keys, plugin_keys


def script(text):
    return textwrap.dedent(text)


def test_interpreter_start_imports_next_to_nothing(run):
    """What the hook adds to a bare start is our two small modules: typing alone would cost milliseconds."""
    code = "import sys; print(*sorted(sys.modules))"
    with_hook, without = (set(run("python", *flags, "-c", code, fresh=True).stdout.split()) for flags in ((), ("-S",)))
    site = {"site", "_sitebuiltins", "sitecustomize", "usercustomize"}
    added = {m for m in with_hook - without - site if not m.startswith(("_distutils", "__editable"))}
    assert {"yolo_musgd", "yolo_musgd._autoload"} <= added
    if "coverage" in added:  # it starts in every process that it measures
        pytest.skip("measured for coverage")
    assert not added & {"typing", "importlib", "importlib.machinery", "re", "collections", "torch", "ultralytics"}


def test_importing_the_package_is_light(run):
    code = "import sys, yolo_musgd; print('torch' in sys.modules, 'ultralytics' in sys.modules)"
    done = run("python", "-c", code, fresh=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


HAS_KEYS = "import ultralytics.cfg; from ultralytics.utils import DEFAULT_CFG_DICT as d; print('adapt_factor' in d)"


def test_the_installed_hook_adds_the_keys(run):
    done = run("python", "-c", HAS_KEYS)
    assert done.stdout.strip().endswith("True"), done.stderr


def test_switched_off(run):
    done = run("python", "-c", HAS_KEYS, env={"YOLO_MUSGD": "0"})
    assert done.stdout.strip().endswith("False"), done.stderr


def globals_of(cfg, model):
    sets = [getattr(cfg, f"CFG_{kind}_KEYS", None) for kind in ("FLOAT", "BOOL", "STR", "INT")]
    return (*sets, cfg.entrypoint, model._smart_load)


def test_register_and_unregister_leave_no_trace():
    import ultralytics.cfg as cfg
    from ultralytics.engine.model import Model
    from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT, checks

    plugin.unregister()
    touched = globals_of(cfg, Model)
    plain = (dict(DEFAULT_CFG_DICT), dict(vars(DEFAULT_CFG)), touched, checks.check_file)
    plugin.register()
    plugin.register()  # twice is once
    assert plugin.active()
    assert set(DEFAULT_CFG_DICT) - set(plain[0]) == set(plugin_keys()) | set(missing_keys(plain[0]))
    assert Model._smart_load is not touched[-1]
    plugin.unregister()
    assert not plugin.active()
    touched = globals_of(cfg, Model)
    assert (dict(DEFAULT_CFG_DICT), dict(vars(DEFAULT_CFG)), touched, checks.check_file) == plain
    plugin.register()


def test_unregister_before_ultralytics_is_imported(run):
    done = run("python", "-c", f"import yolo_musgd; yolo_musgd.unregister(); {HAS_KEYS}")
    assert done.stdout.strip().endswith("False"), done.stderr


def test_a_patch_that_fails_midway_is_undone(run):
    code = script(
        """
        import warnings
        import yolo_musgd.plugin as plugin
        def broken(entrypoint):
            raise AttributeError("changed")
        plugin._polite = broken
        warnings.simplefilter("ignore")
        import ultralytics.cfg as cfg
        print("adapt_factor" in cfg.DEFAULT_CFG_DICT, "adapt_factor" in cfg.CFG_FLOAT_KEYS)
        """
    )
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["False", "False"]


def test_late_registration_reaches_functions_imported_by_name():
    from ultralytics.data import utils as data_utils
    from ultralytics.utils import checks

    plugin.unregister()
    original = checks.check_file
    assert data_utils.check_file is original
    plugin.register()
    assert data_utils.check_file is checks.check_file is not original


@pytest.mark.parametrize(
    ("version", "expected"),
    [("8.4.0", True), ("8.4.190", True), ("8.5.0", True), ("8.3.253", False), ("9.0.0", False), ("8.4.7rc1", True)],
)
def test_supported_versions(version, expected):
    assert plugin.supported(version) is expected


def test_outside_its_range_it_steps_aside_with_one_warning(run, tmp_path):
    """A copy of ultralytics that claims another version: `yolo` works, without us and with one warning."""
    code = script(
        """
        import importlib.util, sys, warnings
        spec = importlib.util.find_spec("ultralytics")
        source = open(spec.origin).read().replace('__version__ = "8.', '__version__ = "7.')
        module = importlib.util.module_from_spec(spec)
        sys.modules["ultralytics"] = module
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exec(compile(source, spec.origin, "exec"), module.__dict__)
            import ultralytics.cfg
            from ultralytics.engine.model import Model
        ours = [str(w.message) for w in caught if "yolo-musgd" in str(w.message)]
        print(len(ours), "adapt_factor" in ultralytics.cfg.DEFAULT_CFG_DICT)
        print(ours[0])
        """
    )
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    first, warning = done.stdout.strip().splitlines()[-2:]
    assert first == "1 False"
    assert "steps aside" in warning
    assert "7." in warning


def test_an_internal_change_of_ultralytics_does_not_break_it(run):
    code = script(
        """
        import warnings
        import yolo_musgd.plugin as plugin
        def broken(module):
            raise AttributeError("no such thing any more")
        plugin._PATCHES["ultralytics.engine.model"] = broken
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from ultralytics import YOLO
        print(sum("no such thing any more" in str(w.message) for w in caught))
        import ultralytics.cfg
        print("adapt_factor" in ultralytics.cfg.DEFAULT_CFG_DICT)
        """
    )
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["1", "False"]


def test_shipped_yaml_is_found_by_name_from_anywhere(monkeypatch, tmp_path):
    from ultralytics.utils.checks import check_file, check_yaml

    monkeypatch.chdir(tmp_path)
    assert check_yaml("shapes.yaml").endswith("datasets/shapes.yaml")
    assert check_yaml("quickstart").endswith("cfg/train/quickstart.yaml")  # cfg=quickstart
    assert check_yaml("on-device.yaml").endswith("cfg/train/on-device.yaml")
    assert check_file("coco8.yaml").endswith("cfg/datasets/coco8.yaml")  # Ultralytics' own
    (tmp_path / "shapes.yaml").write_text("path: mine\n")
    assert check_yaml("shapes.yaml") == "shapes.yaml"  # the user's file comes first
    with pytest.raises(FileNotFoundError):
        check_file("no-such-data.yaml")


def test_a_data_set_is_named_by_a_copy_that_stays(monkeypatch, tmp_path):
    """A run that was trained on shapes.yaml resumes where the plugin is gone: its YAML lies beside the images."""
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.checks import check_yaml

    from yolo_musgd import resources

    monkeypatch.chdir(tmp_path)
    assert Path(check_yaml("shapes.yaml")).parent == Path(SETTINGS["datasets_dir"]) / resources.COPIES
    shipped = resources.find("shapes.yaml")
    copy = resources.copied(shipped, tmp_path / "sets")
    assert copy == tmp_path / "sets" / resources.COPIES / "shapes.yaml"
    copy.write_text("of an older release")
    assert resources.copied(shipped, tmp_path / "sets").read_text() == shipped.read_text()
    (tmp_path / "file").touch()
    assert resources.copied(shipped, tmp_path / "file") == shipped, "nothing can be written there"


def test_recipes_hold_only_known_arguments():
    from ultralytics.cfg import check_dict_alignment, get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    from yolo_musgd import resources
    from yolo_musgd.train.trainer import check_arguments

    recipes = sorted((resources.folder("cfg") / "train").glob("*.yaml"))
    assert {"musgd.yaml", "musgd-article.yaml", "on-device.yaml"} <= {r.name for r in recipes}
    for recipe in recipes:
        values = yaml.safe_load(recipe.read_text())
        check_dict_alignment(DEFAULT_CFG_DICT, values)
        check_arguments(values)
        get_cfg(overrides=values)


def test_keys_are_typed_as_ultralytics_own():
    from ultralytics.cfg import get_cfg

    assert get_cfg(overrides={"adapt_factor": 0.05}).adapt_factor == 0.05
    with pytest.raises(TypeError, match="adapt_factor"):
        get_cfg(overrides={"adapt_factor": "much"})
    with pytest.raises(TypeError, match="nesterov"):
        get_cfg(overrides={"nesterov": 3})


def test_autoload_adds_one_finder():
    from yolo_musgd import _autoload

    _autoload.start()
    _autoload.start()
    assert sum(isinstance(f, _autoload.Finder) for f in sys.meta_path) == 1


def test_the_wheel_is_what_is_tested():
    import os
    from pathlib import Path

    import yolo_musgd

    if not os.environ.get("YOLO_MUSGD_TEST_WHEEL"):
        pytest.skip("not the gate: the checkout may be what is tested")
    assert "site-packages" in str(Path(yolo_musgd.__file__).resolve())
    assert subprocess.run([sys.executable, "-c", "pass"], check=True).returncode == 0


def test_ctrl_c_in_a_training_is_one_line(capsys):
    from yolo_musgd.edge.interrupts import Interrupted

    def entrypoint():
        raise Interrupted("interrupted; go on with: yolo train resume=True model=last.pt")

    with pytest.raises(SystemExit) as left:
        plugin._polite(entrypoint)()
    assert left.value.code == 130
    assert capsys.readouterr().err == "yolo-musgd: interrupted; go on with: yolo train resume=True model=last.pt\n"
