"""The steps of the pipeline, declared: what each runs, what it needs and what it makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from yolo_musgd.export.accuracy import CONF
from yolo_musgd.export.backends import BACKENDS
from yolo_musgd.export.targets import load_target
from yolo_musgd.pipeline.settings import PipelineSettings
from yolo_musgd.pipeline.step import Step

PROBE_IMAGES = 128
SECONDS_PER_MEGAPIXEL = 1.3  # of training yolo26n on one quiet x86 core; a first guess, replaced by what is seen

Origin = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A file, the steps that it comes from, and the pipeline's inputs that it is."""


@dataclass(frozen=True)
class PipelinePlan:
    """What the graph is built from, once everything is decided.

    Attributes:
        settings: as given.
        imgsz: side of the input, pixels.
        precision: of the final model.
        epochs: of training.
        finetune_epochs: after pruning.
        cut: change of the FLOPs by pruning, 0 without.
        train_images: how many there are.
        judged: split of the final table.
    """

    settings: PipelineSettings
    imgsz: int
    precision: str
    epochs: int
    finetune_epochs: int
    cut: float
    train_images: int
    judged: str

    @property
    def prunes(self) -> bool:
        """Whether the model is changed by the step prune."""
        return bool(self.cut or self.settings.activation)

    def train_seconds(self, epochs: float, share: float = 1.0) -> float:
        """A first guess of how long training takes."""
        return 15 + epochs * self.train_images * (self.imgsz / 1000) ** 2 * SECONDS_PER_MEGAPIXEL * (0.4 + 0.6 * share)


def probe(plan: PipelinePlan) -> Step:
    """One short epoch, to know how long one takes."""
    fraction = min(1.0, PROBE_IMAGES / plan.train_images)
    return _train(
        plan, "probe", "time a short epoch", "{model}", 1, "cfg",
        extra=(f"fraction={fraction:.6g}", "val=False"), outputs=("run/results.csv", "run/args.yaml"),
        seconds=plan.train_seconds(fraction),
    )  # fmt: skip


def steps_of(plan: PipelinePlan) -> list[Step]:
    """The steps from training to the bundle, each after what it needs."""
    names = Names(plan)
    steps = [_base(plan)] if plan.epochs else []
    source = "{train}/run/weights/best.pt" if plan.epochs else "{model}"
    before = ("train",) if plan.epochs else ()
    inputs = () if plan.epochs else ("model",)
    teachers: dict[str | None, Origin | None] = {None: None, "base": (source, before, inputs)}
    taught = teachers.get(plan.settings.teacher, ("{teacher}", (), ("teacher",)))
    base = _export(plan, "export-base", "the base model as it runs, in FP32", source, "fp32", before, inputs)
    steps.append(base)
    stem = "best" if plan.epochs else "{stem}"
    contenders = [f"base={{export-base}}/{artifact('fp32', plan, stem)}"]
    needs = ["export-base"]
    if plan.prunes:
        steps.append(_prune(plan, names.prune, source, before, inputs))
        source, before, inputs = f"{{{names.prune}}}/cut/pruned.pt", (names.prune,), ()
        if plan.finetune_epochs:
            steps.append(_finetune(plan, names, source, taught))
            source, before = f"{{{names.finetune}}}/run/weights/best.pt", (names.finetune,)
        steps.append(_export(plan, names.pruned, "the pruned model in FP32", source, "fp32", before, ()))
        stem = "best" if plan.finetune_epochs else "pruned"
        contenders.append(f"pruned={{{names.pruned}}}/{artifact('fp32', plan, stem)}")
        needs.append(names.pruned)
    title = f"the final model in {plan.precision.upper()}"
    steps.append(_export(plan, names.final, title, source, plan.precision, before, inputs))
    final = f"{{{names.final}}}/{artifact(plan.precision, plan, stem)}"
    contenders.append(f"final={final}")
    needs.append(names.final)
    return [*steps, *_after(plan, names, contenders, final, needs)]


class Names:
    """Names of steps that a second attempt with another cut must not overwrite.

    Args:
        plan: with its cut.
    """

    def __init__(self, plan: PipelinePlan) -> None:
        suffix = "" if plan.cut == plan.settings.flops else f"-{round(-100 * plan.cut)}"
        self.prune, self.finetune = f"prune{suffix}", f"finetune{suffix}"
        self.pruned, self.final, self.measure = f"export-pruned{suffix}", f"export-final{suffix}", f"measure{suffix}"
        self.bench, self.after, self.bundle = f"bench{suffix}", f"detect-after{suffix}", f"bundle{suffix}"


def artifact(precision: str, plan: PipelinePlan, stem: str) -> str:
    """Folder of an exported model below its step's folder, as ``yolo-musgd export`` names it."""
    return f"export/{BACKENDS[runtime_of(plan.settings, precision)].folder_name(stem, precision)}"


def runtime_of(settings: PipelineSettings, precision: str) -> str:
    """The board's first runtime that computes a precision."""
    return load_target(settings.target).runtimes_for(precision)[0]


def _device(plan: PipelinePlan) -> tuple[str, ...]:
    return (f"device={plan.settings.device}",) if plan.settings.device else ()


def _train(
    plan: PipelinePlan, name: str, title: str, model: str, epochs: int, recipe: str, needs: tuple[str, ...] = (),
    extra: Sequence[str] = (), outputs: tuple[str, ...] = ("run/weights/best.pt", "run/results.csv"),
    seconds: float = 0.0,
) -> Step:  # fmt: skip
    chosen = plan.settings
    words = (
        "yolo", "train", f"cfg={{{recipe}}}", f"model={model}", "data={data}", f"imgsz={plan.imgsz}",
        f"epochs={epochs}", f"batch={chosen.batch}", f"nbs={chosen.batch}", f"seed={chosen.seed}",
        f"workers={chosen.workers}", *_device(plan), *extra, "project={out}", "name=run", "exist_ok=True",
    )  # fmt: skip
    inputs = ("data", recipe, "model") if model == "{model}" else ("data", recipe)
    return Step(name, title, words, needs, inputs, outputs, seconds or plan.train_seconds(epochs), epochs)


def _base(plan: PipelinePlan) -> Step:
    return _train(plan, "train", "train the base model", "{model}", plan.epochs, "cfg")


def _finetune(plan: PipelinePlan, names: Names, source: str, taught: Origin | None) -> Step:
    """The step after pruning; with a teacher, whose forward pass makes an epoch about a third longer."""
    teacher, needs, inputs = taught or ("", (), ())
    seconds = plan.train_seconds(plan.finetune_epochs, 1 + plan.cut) * (4 / 3 if teacher else 1)
    step = _train(
        plan, names.finetune, "fine-tune the pruned model", source, plan.finetune_epochs, "finetune_cfg",
        (names.prune, *needs), (f"distill_model={teacher}",) if teacher else (), seconds=seconds,
    )  # fmt: skip
    return dataclasses.replace(step, inputs=(*step.inputs, *inputs))


def _prune(plan: PipelinePlan, name: str, source: str, before: tuple[str, ...], inputs: tuple[str, ...]) -> Step:
    chosen = plan.settings
    activation = (f"activation={chosen.activation}",) if chosen.activation else ()
    words = (
        "yolo-musgd", "prune", f"model={source}", "data={data}", f"flops={plan.cut:g}", *activation, "epochs=0",
        "bench=none", f"imgsz={plan.imgsz}", f"batch={chosen.batch}", f"seed={chosen.seed}", *_device(plan),
        "project={out}", "name=cut",
    )  # fmt: skip
    cut = f"prune {-plan.cut:.0%} of the FLOPs" if plan.cut else ""
    title = ", ".join(filter(None, [cut, chosen.activation and f"activations become {chosen.activation}"]))
    return Step(name, title, words, before, ("data", *inputs), ("cut/pruned.pt", "cut/prune.json"), 40)


def _export(
    plan: PipelinePlan,
    name: str,
    title: str,
    source: str,
    precision: str,
    before: tuple[str, ...],
    inputs: tuple[str, ...],
) -> Step:
    chosen = plan.settings
    words = [
        "yolo-musgd", "export", f"model={source}", f"target={chosen.target}", f"precision={precision}", "data={data}",
        f"imgsz={plan.imgsz}", f"runtime={runtime_of(chosen, precision)}", f"threads={chosen.threads}",
    ]  # fmt: skip
    if chosen.max_drop is not None and precision == "int8":
        words.append(f"max_drop={chosen.max_drop:g}")
    outputs = ("export/*_model/manifest.json", "export/*_model/*.*", "export/report.md")
    return Step(
        name, title, (*words, "project={out}", "name=export"), before, ("data", *inputs), outputs,
        90 if precision == "int8" else 45,
    )  # fmt: skip


def _module(name: str, *words: str) -> tuple[str, ...]:
    return ("python", "-m", f"yolo_musgd.pipeline.{name}", *words)


def _after(plan: PipelinePlan, names: Names, contenders: list[str], final: str, needs: list[str]) -> list[Step]:
    """What is done with the exported models."""
    base, threads = contenders[0].partition("=")[2], f"threads={plan.settings.threads}"
    photos = ("images",) if plan.settings.images else ()
    source = "source={images}" if photos else f"split={plan.judged}"
    measure = Step(
        names.measure, "accuracy, latency and agreement, side by side",
        _module("final_table", *contenders, "data={data}", f"split={plan.judged}", threads, "out={out}/measure.json"),
        tuple(needs), ("data",), ("measure.json",), 40,
    )  # fmt: skip
    samples = Step(
        "samples", "choose the pictures that are shown",
        _module("samples", "data={data}", source, "out={out}/images"), (), ("data", *photos), ("images/*",), 5,
    )  # fmt: skip

    def detect(name: str, title: str, model: str, need: str) -> Step:
        words = (
            "yolo-musgd",
            "detect",
            f"model={model}",
            "source={samples}/images",
            f"conf={CONF}",  # both models' pictures show the same scores, whatever suits each
            threads,
            "project={out}",
            "name=out",
        )
        return Step(name, title, words, (need, "samples"), (), ("out/detections.json", "out/*.*"), 8)

    bench = Step(
        names.bench, "frames a second and watts of the final model here",
        ("yolo-musgd", "bench", f"model={final}", "source={samples}/images", threads, "n=100", "seconds=5", "warmup=3",
         "idle=5", "project={out}", "name=bench"),
        (needs[-1], "samples"), (), ("bench/bench.json",), 20,
    )  # fmt: skip
    bundle = Step(
        names.bundle, f"pack everything for {load_target(plan.settings.target).title}",
        ("yolo-musgd", "bundle", f"model={final}", f"target={plan.settings.target}", "samples={samples}/images",
         "project={out}", f"name=edge-{plan.settings.target}"),
        (needs[-1], "samples"), (), ("edge-*.tar.gz",), 8,
    )  # fmt: skip
    return [
        measure,
        samples,
        detect("detect-before", "what the base model sees", base, "export-base"),
        detect(names.after, "what the final model sees", final, needs[-1]),
        bench,
        bundle,
    ]
