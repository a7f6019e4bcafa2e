"""Which channels belong together, and that a pruned model still computes the same function of them.

Covers adapters.py and stock_checkpoint.py.
"""

import copy
import inspect

import pytest
import thop
import torch
from torch import nn
from ultralytics.nn.modules.block import Attention
from ultralytics.utils.torch_utils import get_flops

from yolo_musgd.edge.errors import UserError
from yolo_musgd.prune import adapters, stock_checkpoint
from yolo_musgd.prune.channel_graph import PruneGraph
from yolo_musgd.prune.schedule import schedule
from yolo_musgd.prune.search import PruningTarget, by_arithmetic

NANO = ["yolo26n.yaml", "yolo11n.yaml", "yolov8n.yaml"]
DETECT = [*NANO, "yolo26s.yaml", "yolo11s.yaml"]
OTHERS = ["yolo26n-seg.yaml", "yolo26n-pose.yaml", "yolo26n-obb.yaml", "yolo11n-seg.yaml", "yolo11n-cls.yaml"]


def random_scores(graph, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(g.channels, generator=generator) for g in graph.groups]


def cut_to(model, share, imgsz=128, **options):
    """The model at this share of its FLOPs, the graph's own idea of the cost, and what was removed."""
    graph = PruneGraph(model, imgsz, **options)
    scores = random_scores(graph)
    kept = by_arithmetic(graph, schedule(graph, scores), PruningTarget("flops", share))
    cost, gone = graph.cost(kept), graph.removed(kept, scores)
    return graph.apply(gone), cost, gone


def fused(model):
    return copy.deepcopy(model).fuse(verbose=False)


def maps(model, x):
    """What the head computes before decoding, of every branch."""
    model.eval()
    with adapters.traceable(model), torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Attention):
                del layer.forward  # the real one
        found = model(x)
        for layer in model.modules():
            if isinstance(layer, Attention):
                layer.forward = None  # traceable() takes it away again
    return found


def flops(model):
    """By Ultralytics' counter on an image of 128 pixels; 8.4.0 prints 32 pixels scaled up, where attention is cheap."""
    return 2 * thop.profile(copy.deepcopy(model), inputs=[torch.empty(1, 3, 128, 128)], verbose=False)[0]


@pytest.mark.parametrize("name", [*DETECT, *OTHERS])
def test_a_cut_of_40_percent_works_in_train_and_eval_and_costs_what_ultralytics_counts(built, name):
    model = built(name)
    before = fused(model)
    pruned, cost, _ = cut_to(model, 0.6)
    after = fused(pruned)
    assert flops(after) / flops(before) == pytest.approx(0.6, abs=0.01)
    pooling = 1e-3 if "cls" in name else 1e-6  # Ultralytics counts the classifier's average pooling too
    assert flops(after) == pytest.approx(cost.flops, rel=pooling)
    if "stride=stride" in inspect.getsource(get_flops):  # exact in newer releases
        assert get_flops(after, 128) == pytest.approx(cost.flops / 1e9, rel=pooling), "what Ultralytics prints"
    assert sum(p.numel() for p in after.parameters()) == cost.params
    x = torch.rand(2, 3, 128, 128)
    raw = pruned.train()(x)
    if name.startswith("yolo26") and "cls" not in name:
        assert raw["one2one"]["boxes"].shape == raw["one2many"]["boxes"].shape == (2, 4, 336)
        assert raw["one2one"]["scores"].shape == (2, pruned.model[-1].nc, 336)
    assert torch.isfinite(pruned.eval()(x)[0] if "cls" in name else torch.as_tensor(1.0)).all()
    assert torch.isfinite(after(x)[0][0] if "seg" in name else after(x)[0]).all()


@pytest.mark.parametrize("name", DETECT)
def test_only_stock_classes_are_left_and_heads_divide(built, name):
    pruned, _, _ = cut_to(built(name), 0.6)
    assert all(type(m).__module__.startswith(("ultralytics.", "torch.")) for m in pruned.modules())
    assert all("forward" not in vars(m) for m in pruned.modules())
    for layer in pruned.modules():
        if isinstance(layer, Attention):
            assert layer.head_dim * layer.num_heads == layer.proj.conv.out_channels
            assert layer.qkv.conv.out_channels == layer.num_heads * (2 * layer.key_dim + layer.head_dim)


@pytest.mark.parametrize("name", NANO)
def test_removing_channels_is_zeroing_them(built, name):
    """The oracle: a channel whose BatchNorm is zero gives zero after SiLU, so the masked model is the pruned one."""
    model, x = built(name), torch.rand(1, 3, 64, 64)
    pruned, _, gone = cut_to(model, 0.6, imgsz=64)
    graph = PruneGraph(model, 64)
    layers = dict(graph.model.named_modules())
    for group in graph.groups:
        dead = gone.get(group.name, [])
        for dep, idxs in group.tp_group:
            target, name_ = dep.target.module, graph.names.get(dep.target.module, "")
            hit = [i for i, root in zip(idxs, _roots(group, dep), strict=True) if root in set(dead)]
            if isinstance(target, nn.BatchNorm2d) and hit:
                target.weight.data[hit] = target.bias.data[hit] = 0
            if isinstance(target, Attention) and hit:
                _mask_attention(layers[name_], hit)
    for ours, masked in zip(maps(pruned, x), maps(graph.model, x), strict=True):
        torch.testing.assert_close(ours, masked, atol=2e-4, rtol=2e-3)


def _roots(group, wanted):
    for number, (dep, _) in enumerate(group.tp_group):
        if dep is wanted:
            return group.tp_group[number].root_idxs
    raise AssertionError


def _mask_attention(layer, stream):
    key_dim, head_dim = adapters.attention_widths(layer.qkv.conv.in_channels - len(stream), layer)
    rows, values = adapters._inner_channels(layer, key_dim, head_dim)
    for bn, idxs in ((layer.qkv.bn, rows), (layer.pe.bn, values), (layer.proj.bn, stream)):
        bn.weight.data[idxs] = bn.bias.data[idxs] = 0


def test_widths_are_multiples(built):
    model = built("yolo26n.yaml")
    old = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for step in (4, 8, 32):
        pruned, _, _ = cut_to(model, 0.7, imgsz=64, round_to=step)
        for name, m in pruned.named_modules():
            if isinstance(m, nn.Conv2d) and m.out_channels != old[name] and ".qkv" not in name:
                assert m.out_channels % step == 0, name


def test_an_already_pruned_model_is_pruned_again(built):
    once, cost, _ = cut_to(built("yolo26n.yaml"), 0.7)
    twice, again, _ = cut_to(once, 0.7)
    assert again.flops / cost.flops == pytest.approx(0.7, abs=0.01)
    assert torch.isfinite(twice.eval()(torch.rand(1, 3, 64, 64))[0]).all()


def test_kept_layers_stay_whole_and_the_cap_holds(built):
    model = built("yolo26n.yaml")
    pruned, _, _ = cut_to(model, 0.8, keep=("model.0", "model.8", "model.23"), max_ratio=0.5)
    old = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, m in pruned.named_modules():
        if isinstance(m, nn.Conv2d):
            assert m.out_channels >= 0.5 * old[name].out_channels
            if name.startswith(("model.0.", "model.8.", "model.23.cv2")):
                assert m.out_channels == old[name].out_channels, name
    with pytest.raises(UserError, match=r"model\.99"):
        PruneGraph(model, 64, keep=("model.99",))


def test_the_cap_is_a_share_of_the_model_as_given_however_many_steps(built):
    model = built("yolo26n.yaml")
    graph = PruneGraph(model, 64, 8, max_ratio=0.3)
    whole, before = graph.widths(), graph.cost()
    for share in (0.8, 0.65):
        graph = PruneGraph(model, 64, 8, max_ratio=0.3, whole=whole)
        scores = random_scores(graph)
        kept = by_arithmetic(graph, schedule(graph, scores, "global"), PruningTarget("flops", share), before.flops)
        model = graph.apply(graph.removed(kept, scores))
    after = PruneGraph(model, 64).widths()
    assert min(after[name] / width for name, width in whole.items()) >= 0.7


@pytest.mark.parametrize("layer", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU])
def test_the_activation_makes_no_difference_to_what_may_go(built, layer):
    model = built("yolo26n.yaml")
    wanted = PruneGraph(model, 64)
    for module in model.modules():
        if isinstance(getattr(module, "act", None), nn.SiLU):
            module.act = layer(inplace=True)
    found = PruneGraph(model, 64)
    assert (found.groups, found.units, found.cost()) == (wanted.groups, wanted.units, wanted.cost())
    pruned, _, _ = cut_to(model, 0.6, imgsz=64)
    assert torch.isfinite(pruned(torch.rand(1, 3, 64, 64))[0]).all()


def test_the_given_model_is_not_changed(built):
    model = built("yolo26n.yaml")
    before = copy.deepcopy(model.state_dict())
    cut_to(model, 0.6)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all("forward" not in vars(m) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("yolov9t.yaml", "YOLOv9"), ("yolov10n.yaml", "YOLOv10"), ("yolo12n.yaml", "area attention"),
     ("yoloe-26n.yaml", "YOLOE"), ("yolov8s-world.yaml", "World"), ("yolov3-tiny.yaml", "no adapter")],
)  # fmt: skip
def test_architectures_without_adapters_are_refused_by_name(built, name, reason):
    try:
        model = built(name)
    except FileNotFoundError:
        pytest.skip(f"this ultralytics has no {name}")
    with pytest.raises(UserError, match=reason):
        PruneGraph(model, 64)


def test_rt_detr_is_refused_by_name():
    with pytest.raises(UserError, match=r"RT-DETR cannot be pruned, .*decoder"):
        stock_checkpoint.load("rtdetr-l.yaml")


def test_a_fused_model_is_refused(built):
    with pytest.raises(UserError, match="fused"):
        PruneGraph(fused(built("yolo26n.yaml")), 64)


def test_a_target_that_cannot_be_met_names_the_nearest(built):
    graph = PruneGraph(built("yolo26n.yaml"), 64, max_ratio=0.3)
    with pytest.raises(UserError, match=r"nearest is -0\.\d+"):
        by_arithmetic(graph, schedule(graph, random_scores(graph)), PruningTarget("flops", 0.2))


def test_a_parameter_target_is_met(built):
    graph = PruneGraph(built("yolo11n.yaml"), 64)
    kept = by_arithmetic(graph, schedule(graph, random_scores(graph)), PruningTarget("params", 0.5))
    assert graph.cost(kept).params / graph.cost().params == pytest.approx(0.5, abs=0.01)
