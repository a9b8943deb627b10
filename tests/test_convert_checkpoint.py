"""Published weights in and out: reference outputs, whole runs, round trips, what is refused.

`checkpoints/` has small networks in the published formats, with the outputs that they must give.
"""

import contextlib
import json
import shutil
import subprocess
import sys

import flax.serialization
import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from test_checkpoints import assert_same

import runs
from golden import FOLDER, assert_golden, config_of, load, nhwc, parse
from scorax import conversion, losses
from scorax.experiment import build
from scorax.models.utils import get_model, get_parametrization, get_score_fn
from scorax.sde_lib import get_sde
from scorax.tools import convert_checkpoint
from scorax.utils.checkpoints import Checkpoints
from scorax.weights import formats, readers, torch_files
from scorax.weights.state_dicts import published_names

CHECKPOINTS = FOLDER / "checkpoints"
WITH_OPTIMIZER = ["score_sde_pytorch", "score_sde_pytorch_ddpmpp_vp", "score_sde_flax_msgpack"]
UNETS = {  # directory -> widths of its levels, and where it has attention
    "diffusers_ncsnpp": ((1, 2), 16, ()),
    "diffusers_ncsnpp_attn": ((1, 4, 1), 32, (8,)),
}
FAMILY = {  # the NCSN++ that diffusers has too
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "scale_by_sigma": True,
    "num_res_blocks": 1,
}


def golden(name):
    return load(f"checkpoints/{name}")


def config_for(name):
    """The config of a file; its runs are tiny."""
    if name in UNETS:
        ch_mult, nf, attn = UNETS[name]
        model = FAMILY | {"ch_mult": ch_mult, "nf": nf, "attn_resolutions": attn}
        settings = {"model": model, "data": {"image_size": 16}}
    else:
        settings = parse(golden(name), "config")
    config = config_of(settings)
    config.update_from_flattened_dict({k: v for k, v in runs.TINY.items() if k[:5] != "model"})
    config.training.batch_size = 8
    config.sampling.steps = 0 if config.training.sde == "vpsde" else 5
    config.data.dataset = "image_folder"
    return config


def source_of(name):
    facts = parse(golden(name), "facts")
    return str(CHECKPOINTS / facts.get("file", facts.get("directory")))


@pytest.fixture(scope="module")
def read():
    """Each file's weights and config, read once."""
    found = {}

    def get(name):
        if name not in found:
            config = config_for(name)
            found[name] = conversion.read_weights(source_of(name), config), config
        return found[name]

    return get


def net_of(config, x, labels):
    """The network as a compiled function of its parameters."""
    return jax.jit(lambda params: get_model(config).apply({"params": params}, x, labels, False))


@pytest.mark.parametrize("name", WITH_OPTIMIZER)
def test_golden_with_optimizer(name, read):
    z, (weights, config) = golden(name), read(name)
    facts, net = parse(z, "facts"), net_of(config, nhwc(z["in/x"]), z["in/labels"])
    assert_golden(net(weights.params_ema), z, "out/y")
    assert_golden(net(weights.params), z, "out/y_with_raw_weights")
    assert weights.step == weights.moments.count == facts["step"]
    assert weights.ema_rate == pytest.approx(facts.get("decay", facts.get("ema_rate")))
    assert sum(a.size for a in jax.tree.leaves(weights.params)) == facts["parameters"]


@pytest.mark.parametrize("name", WITH_OPTIMIZER[:2])
def test_golden_score(name, read):
    z, (weights, config) = golden(name), read(name)
    sde = get_sde(config)
    parametrization = get_parametrization(config, sde)
    score = get_score_fn(sde, get_model(config), weights.params_ema, {}, parametrization)
    assert_golden(jax.jit(score)(nhwc(z["in/x"]), z["in/t"]), z, "out/score")


@pytest.mark.parametrize("name", UNETS)
def test_golden_diffusers(name, read):
    z, (weights, config) = golden(name), read(name)
    net = net_of(config, nhwc(z["in/x"]), z["in/sigma"])
    assert_golden(net(weights.params_ema), z, "out/y")
    leaves = jax.tree.leaves(weights.params)
    assert sum(a.size for a in leaves) == parse(z, "facts")["parameters"]
    assert {a.dtype for a in leaves} == {np.dtype(np.float32)}


NAMES_2022 = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("below", ["", "unet"])
def test_diffusers_under_its_older_names(below, tmp_path, read):
    """Attention of 2022, the frequencies twice, and the model in a folder of a pipeline."""
    weights, config = read("diffusers_ncsnpp")
    folder = tmp_path / below
    shutil.copytree(CHECKPOINTS / "diffusers_ncsnpp", folder, dirs_exist_ok=True)
    path = folder / "diffusion_pytorch_model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    for new, old in NAMES_2022.items():
        arrays = {name.replace(f".{new}.", f".{old}."): x for name, x in arrays.items()}
    assert sum(".query." in name for name in arrays) == 2
    arrays["time_proj.W"] = arrays["time_proj.weight"]
    safetensors.numpy.save_file(arrays, path)
    unet = json.loads((folder / "config.json").read_text())
    for field in ("attn_norm_num_groups", "upsample_type", "downsample_type", "add_attention"):
        del unet[field]
    unet["mid_block_scale_factor"] = 1.41421356237
    (folder / "config.json").write_text(json.dumps(unet))
    assert_same(conversion.read_weights(str(tmp_path), config).params, weights.params)
    del unet["attention_head_dim"]  # the library would take 8 and not one head
    (folder / "config.json").write_text(json.dumps(unet))
    with pytest.raises(ValueError, match="network; attention_head_dim is .* the config has None$"):
        conversion.read_weights(str(tmp_path), config)


# A checkpoint that a run goes on from


def image_folder(path):
    for split in ("train", "test"):
        (path / split).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(path / split / f"{i}.png")
    return path


CONFIG_FILE = """
import json
from configs import base

def get_config(variant=""):
    config = base.get_config()
    config.update_from_flattened_dict(json.loads({!r}))
    return config
"""


def flat(config):
    return {f"{s}.{k}": v for s in config if s != "seed" for k, v in config[s].items()}


@pytest.fixture(scope="module")
def imported(tmp_path_factory, cache):
    """What the command line makes of a .pth: config, directory of the run, and what it says."""
    folder = tmp_path_factory.mktemp("imported")
    config = config_for("score_sde_pytorch")
    config.data.dir = str(image_folder(folder / "images"))
    config.sampling.predictor, config.sampling.corrector = "reverse_diffusion", "none"
    file = folder / "mine.py"
    file.write_text(CONFIG_FILE.format(json.dumps(flat(config))))
    command = [sys.executable, "-m", "tools.convert_checkpoint", source_of("score_sde_pytorch")]
    command += ["--config", str(file), "--workdir", str(folder / "run")]
    command += ["--config.training.n_iters=2301"]
    config.training.n_iters = 2301
    said = runs.finish(runs.start(command, runs.environment(cache)))
    return config.lock(), folder / "run", said


def restore(config, workdir):
    template = jax.eval_shape(build(config).init_state)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", 8)) as checkpoints:
        return checkpoints.restore(template)


@pytest.mark.slow
def test_command_line_writes_what_the_file_holds(imported, read):
    config, workdir, said = imported
    weights, _ = read("score_sde_pytorch")
    state, data_state, saved, step = restore(config, workdir)
    assert said.splitlines() == [f"{workdir}/checkpoints/2300: 48,763 parameters, step 2300"]
    assert (step, int(state.step), data_state) == (2300, 2300, {"next_batch": 2300})
    assert_same(state.params, weights.params)
    assert_same(state.params_ema, weights.params_ema)
    assert saved["data"]["dir"] == config.data.dir


@pytest.mark.slow
def test_adam_goes_on_as_in_pytorch(imported):
    """The update that torch.optim.Adam makes of a gradient of zeros, from the file's own state.

    The file also has the learning rate at its step, which is in the warm-up.
    """
    config, workdir, _ = imported
    state, *_ = restore(config, workdir)
    optimizer = torch_files.load(source_of("score_sde_pytorch"))["optimizer"]
    (group,) = optimizer["param_groups"]
    zeros = jax.tree.map(np.zeros_like, state.params)
    update = jax.jit(build(config).optimizer.update)
    updates, _ = update(zeros, state.opt_state, state.params)
    (b1, b2), n = group["betas"], 2301
    for index, ours in (
        (1, updates["time_dense_0"]["kernel"].T),
        (0, updates["time_fourier"]["W"]),
    ):
        adam = optimizer["state"].get(index, {"exp_avg": np.zeros(8), "exp_avg_sq": np.zeros(8)})
        mean = b1 * adam["exp_avg"].astype(np.float64) / (1 - b1**n)
        square = b2 * adam["exp_avg_sq"].astype(np.float64) / (1 - b2**n)
        expected = -group["lr"] * mean / (np.sqrt(square) + group["eps"])
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-12)
    assert np.abs(expected).max() == 0 < np.abs(updates["conv_in"]["kernel"]).max()


def test_flax_moments_belong_to_their_parameters(read):
    """Each trained array of the original tree, its moments, and ours, by way of their values."""
    weights, config = read("score_sde_flax_msgpack")
    file = formats.read_msgpack(source_of("score_sde_flax_msgpack"))
    states = file["optimizer"]["state"]["param_states"]
    for name, ours in (
        ("Conv_0/kernel", "conv_in/kernel"),
        ("GroupNorm_0/scale", "out_norm/scale"),
    ):
        module, leaf = name.split("/")
        place, our_leaf = ours.split("/")
        for moment, tree in (("grad_ema", weights.moments.mu), ("grad_sq_ema", weights.moments.nu)):
            theirs = states[module][leaf][moment].squeeze()
            np.testing.assert_array_equal(tree[place][our_leaf], theirs)
    state, notes = conversion.to_state(build(config), weights)
    counts = {int(x) for x in jax.tree.leaves(state.opt_state) if x.shape == ()}
    assert (counts, notes) == ({85500}, [])


def test_source_without_optimizer_starts_it_afresh(read):
    weights, config = read("diffusers_ncsnpp")
    config.training.n_jitted_steps = 2
    weights = conversion.Weights(weights.params, weights.params, step=2501, ema_rate=0.9)
    state, notes = conversion.to_state(build(config), weights)
    assert [note.split(";")[0] for note in notes] == [
        "the source has one set of weights",
        "the source has no optimizer state",
        "the source averaged with the decay 0.9, model.ema_rate is 0.999",
        "to train on, set --config.training.n_jitted_steps=1",
    ]
    fresh = losses.get_optimizer(config).init(state.params)
    changed = [
        (int(a), int(b))
        for a, b in zip(*map(jax.tree.leaves, (fresh, state.opt_state)), strict=True)
        if np.any(a != b)
    ]
    assert changed == [(0, 2501)]  # the schedule's count, and nothing of Adam's


def test_a_workdir_with_checkpoints_is_left_alone(imported):
    config, workdir, _ = imported
    before = sorted(p.name for p in (workdir / "checkpoints").iterdir())
    with pytest.raises(ValueError, match="checkpoints is not empty; name another directory"):
        conversion.import_checkpoint(source_of("score_sde_pytorch"), config, str(workdir))
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == before


# Out, and back in


def assert_round_trip(workdir, config, params, format, target):
    """Writes, reads back, and finds each array as it was; knows its own config again."""
    (said,) = conversion.export_weights(str(workdir), config, format, str(target))
    assert said.startswith(f"{target}: the averaged weights of step ")
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    back = conversion.read_weights(str(target), config)
    assert_same(back.params_ema, params)
    assert (int(said.split()[-1]), back.moments) == (back.step, None)
    other = config.copy_and_resolve_references()
    other.model.sigma_max = 40.0
    with pytest.raises(ValueError, match="model.sigma_max is 40.0, the checkpoint has 50.0"):
        conversion.read_weights(str(target), other)
    with pytest.raises(ValueError, match="is there already; move it away"):
        conversion.export_weights(str(workdir), config, format, str(target))


def test_round_trip_of_pytorch_is_exact(imported, tmp_path, read):
    config, workdir, _ = imported
    weights, _ = read("score_sde_pytorch")
    target = tmp_path / "new" / "out.safetensors"
    assert_round_trip(workdir, config, weights.params_ema, "safetensors", target)
    arrays, metadata = formats.read_safetensors(target)
    assert metadata["format"] == "pt" and metadata["step"] == "2300"
    model = torch_files.load(source_of("score_sde_pytorch"))["model"]
    shapes = {name.removeprefix("module."): x.shape for name, x in model.items()}
    assert {name: x.shape for name, x in arrays.items()} | {"sigmas": (1000,)} == shapes


@pytest.mark.slow
def test_round_trip_of_every_format_is_exact(tmp_path, read):
    weights, config = read("diffusers_ncsnpp_attn")
    run = tmp_path / "run"
    said = conversion.import_checkpoint(source_of("diffusers_ncsnpp_attn"), config, str(run))
    assert said[0] == f"{run}/checkpoints/0: 2,140,233 parameters, step 0"
    targets = {"diffusers": "a/out", "safetensors": "b/out.safetensors", "weights": "c/out"}
    assert targets.keys() == conversion.WRITERS.keys()
    for format, target in targets.items():
        assert_round_trip(run, config, weights.params_ema, format, tmp_path / target)


def test_exported_directory_is_that_of_the_library(tmp_path, read):
    """Config, names, shapes and values are those that diffusers itself wrote."""
    weights, config = read("diffusers_ncsnpp")
    conversion.WRITERS["diffusers"](str(tmp_path / "out"), weights.params, config, {})
    published, arrays, _ = formats.read_diffusers(CHECKPOINTS / "diffusers_ncsnpp")
    ours, our_arrays, metadata = formats.read_diffusers(tmp_path / "out")
    assert metadata == {"format": "pt"}
    assert {k: published[k] for k in ours} == ours
    assert our_arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(our_arrays[name], array)


def test_diffusers_for_images_that_are_no_squares(tmp_path, read):
    weights, config = read("diffusers_ncsnpp")
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.data.image_size = (16, 24)
    conversion.WRITERS["diffusers"](str(tmp_path / "out"), weights.params, config, {})
    assert formats.read_diffusers(tmp_path / "out")[0]["sample_size"] == [16, 24]
    again = conversion.read_weights(str(tmp_path / "out"), config)
    assert_same(again.params, weights.params)


@pytest.mark.parametrize("name", UNETS)
def test_diffusers_reads_what_is_written(name, tmp_path, read):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    z, (weights, config) = golden(name), read(name)
    conversion.WRITERS["diffusers"](str(tmp_path / "out"), weights.params, config, {})
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        y = unet(torch.from_numpy(z["in/x"]), torch.from_numpy(z["in/sigma"])).sample
    assert_golden(nhwc(y.numpy()), z, "out/y")
    net = net_of(config, nhwc(z["in/x"]), z["in/sigma"])
    assert_golden(net(weights.params), {"y": y.numpy()}, "y")
    pipeline = diffusers.ScoreSdeVePipeline.from_pretrained(tmp_path / "out")
    assert pipeline.scheduler.config.sigma_max == config.model.sigma_max


def test_networks_that_diffusers_does_not_have(tmp_path, read):
    weights, config = read("score_sde_pytorch")
    with pytest.raises(ValueError) as error:
        conversion.WRITERS["diffusers"](str(tmp_path / "out"), weights.params, config, {})
    message = str(error.value)
    assert message.startswith("diffusers has no network that equals this config's")
    assert "model.progressive='none' (there 'output_skip')" in message
    assert "attention at 16 channels (there at 128 or more)" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_run_is_evaluated_and_continued(imported, cache):
    config, workdir, _ = imported
    before, *_ = restore(config, workdir)
    main = [sys.executable, "main.py", "--config", str(workdir.parent / "mine.py")]
    main += ["--workdir", str(workdir), "--config.training.n_iters=2301", "--mode"]
    env = runs.environment(cache)
    runs.finish(runs.start([*main, "eval"], env))
    report = json.loads((workdir / "eval" / "step_2300" / "report.json").read_text())
    assert (report["step"], report["samples"]["num_samples"]) == (2300, 12)
    with np.load(workdir / "eval" / "step_2300" / "samples.npz") as samples:
        assert samples["samples"].shape == (12, 16, 16, 3)
    assert "step 2300 of 2301" in runs.finish(runs.start([*main, "train"], env))
    state, data_state, *_ = restore(config, workdir)
    assert (int(state.step), data_state) == (2301, {"next_batch": 2301})
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, before.params)
    assert moved["time_fourier"]["W"] == 0
    # Adam moves no weight by much more than the learning rate, which is 9.2e-5 at this step.
    assert 1e-5 < max(jax.tree.leaves(moved)) < 1e-3


# What is refused


def test_wrong_config_lists_what_differs(read):
    config = config_for("score_sde_pytorch")
    config.model.num_res_blocks = 2
    with pytest.raises(ValueError, match="missing: all_modules.6.*left over: .*5.Conv_2"):
        conversion.read_weights(source_of("score_sde_pytorch"), config)
    config = config_for("score_sde_flax_msgpack")
    config.model.num_res_blocks = 2
    with pytest.raises(ValueError, match="missing: .*ResnetBlockBigGANpp_"):
        conversion.read_weights(source_of("score_sde_flax_msgpack"), config)
    config = config_for("diffusers_ncsnpp")
    config.model.nf = 8
    with pytest.raises(ValueError, match=r"block_out_channels is \[16, 32\], the config has \[8, "):
        conversion.read_weights(source_of("diffusers_ncsnpp"), config)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda shadow: shadow[1:], "pth: it averages 155 arrays, the network has 156"),
        (lambda shadow: shadow[::-1], "pth: .*; of another shape: all_modules.1.weight "),
    ],
    ids=["one missing", "another order"],
)
def test_average_of_another_network_is_noticed(change, message, read, monkeypatch):
    """The average has no names, only an order."""
    _, config = read("score_sde_pytorch")
    file = torch_files.load(source_of("score_sde_pytorch"))
    file["ema"]["shadow_params"] = change(file["ema"]["shadow_params"])
    monkeypatch.setattr(torch_files, "load", lambda path: file)
    with pytest.raises(ValueError, match=message):
        conversion.read_weights(source_of("score_sde_pytorch"), config)


def test_optimizer_of_another_network_is_noticed(read):
    _, config = read("score_sde_pytorch")
    names = [a.torch for a in published_names(config).values()]
    state = {i: {"step": 1} for i in range(1, len(names))}

    def moments(state, n):
        optimizer = {"state": state, "param_groups": [{"params": list(range(n))}]}
        return readers._torch_moments(optimizer, {}, names, names[1:], config)

    assert moments({}, len(names)) is None
    with pytest.raises(ValueError, match="its optimizer has 3 arrays, the network has 157"):
        moments(state, 3)
    del state[2]
    with pytest.raises(ValueError, match="its optimizer has no state for all_modules.1.bias$"):
        moments(state, len(names))


def test_names_that_match_nothing_are_listed(tmp_path, read):
    _, config = read("diffusers_ncsnpp")
    shutil.copytree(CHECKPOINTS / "diffusers_ncsnpp", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays["conv_in.wait"] = arrays.pop("conv_in.weight")
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match="missing: conv_in.weight; left over: conv_in.wait"):
        conversion.read_weights(str(tmp_path), config)


def without(tree, *path):
    tree = dict(tree)
    if len(path) == 1:
        del tree[path[0]]
    else:
        tree[path[0]] = without(tree[path[0]], *path[1:])
    return tree


STRANGE = {  # what is done to the tree of a checkpoint -> what the message has to say
    "no average": (lambda t: without(t, "params_ema"), "checkpoint_1: it lacks params_ema, which"),
    "no step": (lambda t: without(t, "step"), "checkpoint_1: it lacks step, which"),
    "no moments": (
        lambda t: without(t, "optimizer", "state", "param_states"),
        r"not laid out as a checkpoint_N .*KeyError\('param_states'\)",
    ),
    "array for a tree": (lambda t: t | {"params_ema": t["step"]}, "ndarray where a dict belongs"),
    "parameter missing": (
        lambda t: without(t, "params_ema", "Conv_0", "bias"),
        r"checkpoint_1: .*; missing: Conv_0/bias \(here conv_in.bias\)$",
    ),
}


@pytest.mark.parametrize("what", STRANGE)
def test_flax_file_of_another_layout(what, tmp_path, read):
    change, message = STRANGE[what]
    _, config = read("score_sde_flax_msgpack")
    tree = formats.read_msgpack(source_of("score_sde_flax_msgpack"))
    target = tmp_path / "checkpoint_1"
    target.write_bytes(flax.serialization.msgpack_serialize(change(tree)))
    with pytest.raises(ValueError, match=message):
        conversion.read_weights(str(target), config)


def cut(name, n):
    return lambda: (CHECKPOINTS / name).read_bytes()[:n]


FILES = {  # content -> what the message has to say
    "truncated pth": (cut("score_sde_pytorch.pth", 150_000), "x is damaged or incomplete"),
    "malicious": (cut("malicious.pth", None), "x: the pickle names 'io.open'"),
    "malicious sequence": (cut("malicious_legacy.pth", None), "x: the pickle names 'io.open'"),
    "truncated flax": (cut("score_sde_flax_msgpack", 9_000), "x is damaged or incomplete"),
    "other pth": (cut("torch_zip.pth", None), "x: it lacks optimizer, model, ema, step"),
    "truncated safetensors": (
        cut("diffusers_ncsnpp/diffusion_pytorch_model.safetensors", 9_000),
        "cannot read .*x: .*; get the file again",
    ),
    "arrays of diffusers": (
        cut("diffusers_ncsnpp/diffusion_pytorch_model.safetensors", None),
        "missing: all_modules.0.W.*left over: conv_in.bias",
    ),
    "web page": (lambda: b"<!DOCTYPE html>", "x has none of the formats .*it is a web page.*pth"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
    "empty": (lambda: b"", "x has none of the formats that can be read; give"),
}


@pytest.mark.parametrize("what", FILES)
def test_file_that_is_no_checkpoint(what, tmp_path, read, monkeypatch):
    _, config = read("diffusers_ncsnpp")
    content, message = FILES[what]
    (tmp_path / "x").write_bytes(content())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        conversion.import_checkpoint("x", config, "run")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_directory_that_is_no_model(tmp_path, read):
    _, config = read("diffusers_ncsnpp")
    with pytest.raises(ValueError, match="has no config.json, so it is no directory of diffusers"):
        conversion.read_weights(str(tmp_path), config)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has neither diffusion_pytorch_model.safetensors nor"):
        conversion.read_weights(str(tmp_path), config)
    with pytest.raises(ValueError, match="cannot read .*nope: No such file"):
        conversion.read_weights(str(tmp_path / "nope"), config)


def test_nothing_to_export(tmp_path, read):
    _, config = read("diffusers_ncsnpp")
    with pytest.raises(ValueError, match="there is no checkpoint in .*; train first"):
        conversion.export_weights(str(tmp_path), config, "diffusers", str(tmp_path / "out"))
    with pytest.raises(ValueError, match="unknown format .*'onnx'; choose from: diffusers, safe"):
        conversion.export_weights(str(tmp_path), config, "onnx", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


WRONG = [  # command line, what the one sentence has to say
    ("a.pth --config c.py", "give --workdir WORKDIR to read weights, or --to FORMAT TARGET"),
    ("a.pth --config c.py --workdir w --to diffusers d", "give --workdir WORKDIR to read"),
    ("--config c.py --workdir w", "arguments are required: source"),
    ("a.pth --workdir w", "arguments are required: --config"),
    ("run --config c.py --to diffusers", "--to: expected 2 arguments"),
]


@pytest.mark.parametrize("arguments, message", WRONG, ids=[w[0][-24:] for w in WRONG])
def test_wrong_command_line(arguments, message):
    with pytest.raises(ValueError) as error:
        convert_checkpoint.run(["convert_checkpoint", *arguments.split()])
    assert message in str(error.value)


def test_errors_of_the_command_line(tmp_path):
    command = [sys.executable, "-m", "tools.convert_checkpoint", str(CHECKPOINTS / "malicious.pth")]
    command += ["--config", "configs/ve/mnist.py:smoke", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "'io.open', which is neither tensor" in done.stderr
    assert list(tmp_path.iterdir()) == [] and not (runs.ROOT / "PWNED").exists()
