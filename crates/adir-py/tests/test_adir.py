"""The module against the program, and its promises to people who write Python.

    tools/test_python.sh

builds both and runs this. ADIR names the program.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import adir
import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[3]
CAT = REPOSITORY / "examples" / "cat_small.png"
PRIOR = REPOSITORY / "crates" / "adir-assets" / "assets" / "prior.safetensors"


@pytest.fixture(scope="session")
def y():
    return np.asarray(Image.open(CAT).convert("RGB"))[16:48, 16:48].copy()


@pytest.fixture(scope="session")
def engine():
    return adir.Engine()


def program(folder, y, *options, output="x.png"):
    """What the program makes of the same request."""
    name = "y.png" if y.dtype.kind == "u" else "y.tif"
    if y.dtype == np.uint16:
        # Pillow writes no RGB of 16 bits.
        name = "y.png"
        assert y.ndim == 2
    Image.fromarray(y).save(folder / name)
    command = [os.environ["ADIR"], "restore", name, "-o", output, "--no-cache", "-q", *options]
    subprocess.run(command, cwd=folder, check=True)
    return np.asarray(Image.open(folder / output)), json.loads((folder / f"{output}.json").read_text())


@pytest.mark.parametrize(
    "options, problem, settings",
    [
        (["--task", "sr4", "--steps", "4", "--seed", "7"], "sr4", {"steps": 4, "seed": 7}),
        (["--task", "deblur", "--kernel", "box:3", "--steps", "4"], adir.Problem("deblur", kernel="box:3"), {"steps": 4}),
        (
            ["--task", "deblur", "--kernel", "k.npy", "--sigma", "3", "--aim", "detailed", "--steps", "5"],
            adir.Problem("deblur", kernel=np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]), sigma=3),
            {"aim": "detailed", "steps": 5},
        ),
        (["--task", "denoise", "--sigma", "10", "-n", "2"], adir.Problem("denoise", sigma=10), {"samples": 2}),
        (
            ["--task", "sr2", "--steps", "3", "--gallery", str(REPOSITORY / "examples/gallery"), "--neighbours", "2",
             "--iterations", "2"],
            "sr2",
            {"steps": 3, "gallery": REPOSITORY / "examples/gallery", "neighbours": 2, "adapt_steps": 2},
        ),
        (["--task", "sr2", "--steps", "3", "--method", "ddnm"], "sr2", {"steps": 3, "method": "ddnm"}),
    ],
)
def test_the_bytes_are_those_of_the_program(tmp_path, y, engine, options, problem, settings):
    np.save(tmp_path / "k.npy", np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]))
    theirs, record = program(tmp_path, y, *options)
    restored = engine.restore(y, problem, **settings)
    assert restored.image.dtype == np.uint8
    np.testing.assert_array_equal(restored.image, theirs)
    mine = restored.record
    assert mine["seed"] == record["seed"] and mine["samples"] == record["samples"]


def test_missing_pixels(tmp_path, y, engine):
    mask = np.zeros(y.shape[:2], bool)
    mask[10:14, 5:20] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.png")
    theirs, _ = program(tmp_path, y, "--task", "inpaint", "--mask", "m.png", "--steps", "4")
    mine = adir.restore(y, "inpaint", mask=mask, steps=4, engine=engine).image
    np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(mine[~mask], y[~mask])


def test_deep_and_grey_images(tmp_path, y, engine):
    deep = np.asarray(Image.fromarray(y).convert("L")).astype(np.uint16) * 257
    theirs, _ = program(tmp_path, deep, "--task", "sr2", "--steps", "3")
    mine = engine.restore(deep, "sr2", steps=3).image
    assert mine.dtype == np.uint16 and mine.shape == (64, 64)
    np.testing.assert_array_equal(mine, theirs.astype(np.uint16))
    # Values of 12 bits in 16, as the program reads them.
    twelve = (deep // 16).astype(np.uint16)
    theirs, _ = program(tmp_path, twelve, "--task", "sr2", "--steps", "3", "--white", "4095", output="w.png")
    found = engine.restore(twelve, "sr2", steps=3, white=4095).image
    np.testing.assert_array_equal(found, theirs.astype(np.uint16))
    assert found.max() < 8192
    # Floats have the same values, and more digits.
    floats = engine.restore((deep / 65535.0).astype(np.float32), "sr2", steps=3).image
    assert floats.dtype == np.float32
    assert np.abs(floats - mine / 65535.0).max() < 2e-5


def test_paths_and_pil(tmp_path, y, engine):
    Image.fromarray(y).save(tmp_path / "y.png")
    arrays = engine.restore(y, "sr2", steps=3)
    for given in (tmp_path / "y.png", str(tmp_path / "y.png"), Image.fromarray(y)):
        np.testing.assert_array_equal(engine.restore(given, "sr2", steps=3).image, arrays.image)
    np.testing.assert_array_equal(np.asarray(arrays.pil()), arrays.image)
    output = tmp_path / "x.png"
    engine.restore(y, "sr2", steps=3, output=output)
    np.testing.assert_array_equal(np.asarray(Image.open(output)), arrays.image)
    with pytest.raises(adir.ConfigError, match="exist"):
        engine.restore(y, "sr2", steps=3, output=output)
    alpha = np.dstack([y, np.full(y.shape[:2], 200, np.uint8)])
    assert engine.restore(alpha, "sr2", steps=2).image.shape == (64, 64, 4)


def test_samples_and_findings(y, engine):
    restored = engine.restore(y, "sr2", steps=3, samples=2)
    assert len(restored.samples) == 2 and restored.deviation.shape[:2] == (64, 64)
    assert restored.deviation.dtype == np.uint16 and restored.deviation.max() > 0
    assert restored.ok and restored.findings["faults"] == [] and "PASS" in repr(restored)
    drawn = [engine.restore(y, "sr2", steps=1, seed=-1).record["seed"] for _ in range(2)]
    assert drawn[0] != drawn[1]
    one = engine.restore(y, "sr2", steps=3)
    assert one.samples == [] and one.deviation is None


def test_events_come_step_by_step(y, engine):
    run = engine.run(y, "sr2", steps=5)
    steps = [event["step"] for event in run if event["event"] == "sampling"]
    assert steps == [1, 2, 3, 4, 5]
    assert run.result().image.shape == (64, 64, 3)
    seen = []
    engine.restore(y, "sr2", steps=5, progress=seen.append)
    assert [event["step"] for event in seen if event["event"] == "sampling"] == steps
    run = engine.run(y, "sr2", steps=200)
    next(iter(run))
    run.stop()
    with pytest.raises(KeyboardInterrupt):
        run.result()


def test_a_plan_says_everything_and_computes_nothing(y, engine):
    plan = engine.plan(y, "deblur", kernel="box:5", sigma=2, steps=7)
    assert "deblur" in str(plan) and "network evaluations  7" in str(plan)
    assert plan.memory > 1e6 and plan.warnings == []


@pytest.mark.parametrize(
    "error, call",
    [
        (adir.ConfigError, lambda y: adir.restore(y, "sr99")),
        (adir.ConfigError, lambda y: adir.restore(y, "sr2", steps=0)),
        (adir.ConfigError, lambda y: adir.restore(y, "sr2", seed=-2)),
        (adir.ConfigError, lambda y: adir.restore(y, "sr2", seed=2**64)),
        (adir.ConfigError, lambda y: adir.restore(y, "sr2", page=1)),
        (adir.ConfigError, lambda y: adir.restore(y, "sr2", aim="sharp")),
        (adir.ConfigError, lambda y: adir.restore(y, "sr2", adapt_steps=3)),
        (adir.ConfigError, lambda y: adir.restore(y, "sr2", kernel=np.ones((2, 2, 2)))),
        (adir.ConfigError, lambda y: adir.restore(y.astype(np.int32), "sr2")),
        (adir.ConfigError, lambda y: adir.restore(y[0, 0], "sr2")),
        (adir.ConfigError, lambda y: adir.restore(y, "inpaint")),
        (adir.ConfigError, lambda y: adir.restore(y, "inpaint", mask=np.ones((3, 3)))),
        (adir.InputError, lambda y: adir.restore(y.astype(np.float32), "sr2")),
        (adir.InputError, lambda y: adir.restore(np.full((8, 8), np.nan, np.float32), "sr2")),
        (adir.InputError, lambda y: adir.restore("no_such.png", "sr2")),
        (adir.InputError, lambda y: adir.restore(y, "sr2", gallery="no_such_folder")),
        (adir.LimitsError, lambda y: adir.Engine(memory=1000).restore(y, "sr2")),
        (adir.ModelError, lambda y: adir.Engine(model="no_such.safetensors").restore(y, "sr2")),
        (adir.ModelError, lambda y: adir.Prior.from_torch({"a": np.zeros(3, np.float32)})),
        (adir.ConfigError, lambda y: adir.restore(y, adir.Problem("sr2"), sigma=3)),
        (TypeError, lambda y: adir.restore(y, "sr2", stepz=3)),
    ],
)
def test_faults_have_exceptions(y, error, call):
    with pytest.raises(error) as raised:
        call(y)
    assert error is TypeError or isinstance(raised.value, adir.AdirError)


def test_an_operator_of_ones_own(y, engine):
    x = np.repeat(np.repeat(y, 2, 0), 2, 1) / 255.0
    gains = np.linspace(1, 0.5, 64)[None, :, None]

    def transposed(measured):
        image = np.zeros((64, 64, 3))
        image[::2] = measured * gains
        return image

    interlaced = adir.Operator(lambda image: image[::2] * gains, transposed, (64, 64, 3), hint="hides")
    assert interlaced.range == (32, 64, 3) and interlaced.dot_test() < 1e-12
    restored = engine.restore(interlaced.apply(x), interlaced, steps=8)
    error = np.mean((restored.image - x) ** 2)
    assert restored.image.dtype == np.float32 and 10 * np.log10(1 / error) > 20
    # Measured rows are those of the result.
    assert np.abs(restored.image[::2] - x[::2]).max() < 0.02
    wrong = adir.Operator(interlaced.apply, lambda measured: 2 * transposed(measured), (64, 64, 3))
    assert wrong.dot_test() > 1e-3


def test_grey_images_and_lists_of_numbers(engine):
    """32 x 32 pixels from 512 of their cosines."""
    frequencies = np.random.default_rng(0).permutation(1024)[:512]
    basis = np.cos(np.pi * np.outer(np.arange(32), np.arange(32) + 0.5) / 32) * np.sqrt(2 / 32)
    basis[0] /= np.sqrt(2)

    def apply(image):
        return (basis @ image @ basis.T).ravel()[frequencies]

    def transposed(measured):
        full = np.zeros(1024)
        full[frequencies] = measured
        return basis.T @ full.reshape(32, 32) @ basis

    cosines = adir.Operator(apply, transposed, (32, 32))
    assert cosines.range == (512,) and cosines.dot_test() < 1e-12
    x = np.add.outer(np.linspace(0.2, 0.8, 32), np.zeros(32))
    restored = engine.restore(apply(x), cosines, steps=8)
    assert restored.image.shape == (32, 32)
    assert np.abs(apply(restored.image) - apply(x)).max() < 0.02


def test_what_an_operator_raises_comes_through(y, engine):
    class Mine(Exception):
        pass

    calls = []

    def apply(image):
        calls.append(1)
        if len(calls) > 60:
            raise Mine("the detector is off")
        return image

    identity = adir.Operator(apply, lambda measured: measured, (32, 32, 3))
    with pytest.raises(Mine, match="detector"):
        while True:
            engine.restore(y / 255.0, identity, steps=20, sigma=5)
    with pytest.raises(adir.ConfigError, match="shape"):
        engine.restore(y[1:] / 255.0, adir.Operator(lambda i: i, lambda m: m, (32, 32, 3)))


def test_ctrl_c_stops_a_run(y, engine):
    def press():
        time.sleep(0.7)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.restore(y, "sr4", preset="paper")
    thread.join()
    assert time.monotonic() - start < 20


@pytest.fixture
def scans(tmp_path, y):
    for k in range(4):
        (tmp_path / "scans" / str(k % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(y, 5 * k, axis=0)).save(tmp_path / "scans" / str(k % 2) / f"{k}.png")
    return tmp_path / "scans"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_a_folder_is_the_program_s(tmp_path, scans, engine):
    alone, parts = tmp_path / "alone", tmp_path / "parts"
    command = [os.environ["ADIR"], "restore", scans, "-o", alone, "--task", "sr2", "--steps", "2", "--no-cache", "-q"]
    subprocess.run(command, check=True)
    first = engine.restore_folder(scans, parts, "sr2", steps=2, shard="1/2")
    assert (first.restored, first.finished, first.failed, first.ok) == (2, 0, [], True)
    merged = adir.merge(parts)
    assert (merged.done, merged.absent, merged.ok) == (2, [("2/2", 2)], False)
    plan = engine.plan_folder(scans, parts, "sr2", steps=2)
    assert (plan.files, plan.finished, plan.to_do, plan.warnings) == (4, 2, ["1/1.png", "1/3.png"], [])
    run = engine.start(engine.plan_folder(scans, parts, "sr2", steps=2, shard="2/2"))
    assert [event["path"] for event in run if event["event"] == "file_done"] == ["1/1.png", "1/3.png"]
    assert run.result().restored == 2
    merged = adir.merge(parts)
    assert (merged.done, merged.ok, merged.path) == (4, True, parts / "adir-manifest.jsonl")
    assert contents(parts) == contents(alone) and len(contents(parts)) == 4
    # Each takes the other's results for finished, and only those of the same settings.
    assert engine.plan_folder(scans, alone, "sr2", steps=2).finished == 4
    again = subprocess.run([*command[:4], parts, *command[5:-1]], check=True, capture_output=True, text=True)
    assert "0 restored, 4 finished before" in again.stderr
    with pytest.raises(adir.ConfigError, match="overwrite"):
        engine.plan_folder(scans, alone, "sr2", steps=3)
    assert len(engine.plan_folder(scans, alone, "sr2", steps=3, overwrite=True).to_do) == 4


def test_a_file_that_fails_stops_nothing(tmp_path, scans, engine):
    (scans / "bad.png").write_bytes(b"no image")
    done = engine.restore_folder(scans, tmp_path / "out", "sr2", steps=1, format="tif")
    assert done.restored == 4 and [file for file, _ in done.failed] == ["bad.png"] and not done.ok
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 4
    merged = adir.merge(tmp_path / "out")
    assert merged.done == 4 and [file for file, _ in merged.failed] == ["bad.png"] and not merged.ok


def test_a_folder_stops_and_goes_on(tmp_path, scans, engine):
    run = engine.start(engine.plan_folder(scans, tmp_path / "out", "sr2", steps=20))
    next(event for event in run if event["event"] == "file_done")
    run.stop()
    with pytest.raises(KeyboardInterrupt):
        run.result()
    plan = engine.plan_folder(scans, tmp_path / "out", "sr2", steps=20)
    assert 1 <= plan.finished < 4
    assert engine.start(plan).result().restored == 4 - plan.finished


@pytest.mark.parametrize(
    "settings",
    [
        {"problem": "sr2", "seed": -1},
        {"problem": "sr2", "shard": "3/2"},
        {"problem": "sr2", "format": "gif"},
        {"problem": "sr2", "overlap": 2},
        {"problem": "inpaint", "mask": np.ones((32, 32))},
        {"problem": adir.Operator(lambda x: x, lambda y: y, (32, 32))},
    ],
)
def test_what_a_folder_refuses(tmp_path, scans, engine, settings):
    with pytest.raises(adir.ConfigError):
        engine.plan_folder(scans, tmp_path / "out", **settings)


def test_other_threads_go_on(y, engine):
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    engine.restore(y, "sr4", steps=10)
    done.set()
    thread.join()
    assert counted[0] > 20


def weights():
    """The embedded prior's tensors and its configuration, as a program that knows safetensors reads them."""
    data = PRIOR.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    config = json.loads(header.pop("__metadata__")["config"])
    state = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        values = np.frombuffer(data[8 + size + begin : 8 + size + end], np.float16)
        state[name] = values.reshape(tensor["shape"])
    return state, config


def test_priors_from_torch(y):
    state, config = weights()
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    prior = adir.Prior.from_torch({name: torch.from_numpy(value.copy()) for name, value in state.items()}, config)
    assert prior.config["model_channels"] == config["model_channels"]
    x = np.random.default_rng(0).random((1, 3, 32, 32)).astype(np.float32)
    # What the embedded one knows besides, of mean colours, is not in a state_dict.
    plain, embedded = prior.denoise(x, 0.3), adir.Prior.embedded().denoise(x, 0.3)
    centred = [image - image.mean(axis=(2, 3), keepdims=True) for image in (plain, embedded)]
    np.testing.assert_allclose(*centred, atol=1e-5)
    assert adir.Engine(prior=prior).restore(y, "sr2", steps=2).image.shape == (64, 64, 3)


def test_denoising_takes_noise_away(y):
    prior = adir.Prior.embedded()
    x = (y / 255.0).transpose(2, 0, 1)[None]
    noise = np.random.default_rng(1).normal(0, 0.1, x.shape)
    before, after = [np.sqrt(np.mean((image - x) ** 2)) for image in (x + noise, prior.denoise(x + noise, 0.1))]
    assert after < 0.6 * before


def test_the_denoiser_serves_deepinv(y):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("deepinv", reason="deepinv is not installed")
    import deepinv
    from adir.deepinv import Denoiser

    denoiser = Denoiser()
    x = torch.from_numpy(y[:30, :27].astype(np.float32) / 255).permute(2, 0, 1)[None]
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    after = denoiser(noisy, 0.1)
    assert after.shape == x.shape and (after - x).pow(2).mean() < 0.4 * (noisy - x).pow(2).mean()
    two = denoiser(torch.cat([noisy, noisy]), torch.tensor([0.1, 0.3]))
    torch.testing.assert_close(two[:1], after)
    # A sampler of deepinv runs on it, and its result agrees with the observation.
    torch.manual_seed(0)
    physics = deepinv.physics.Inpainting(img_size=(3, 32, 32), mask=0.5)
    truth = torch.from_numpy(y.astype(np.float32) / 255).permute(2, 0, 1)[None]
    observed = physics(truth)
    sampler = deepinv.sampling.DDRM(denoiser, sigmas=np.linspace(1, 0.01, 8), verbose=False)
    found = sampler(observed, physics)
    assert (physics.A(found) - observed).abs().max() < 0.1
    assert (found - truth).pow(2).mean() < 0.25 * (observed - truth).pow(2).mean()


def test_importing_is_quick():
    code = "import time; t = time.perf_counter(); import adir; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", f"import numpy; {code}"])) for _ in range(3)]
    print("import adir:", min(times))
    assert adir.__version__


def test_the_notebook_runs():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    folder = Path(__file__).resolve().parents[1] / "examples"
    notebook = nbformat.read(folder / "restore.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    assert "dB" in str(notebook.cells[-2].outputs)
