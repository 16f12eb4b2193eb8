"""The engine: requests in, results out."""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Generic, Iterator, List, NamedTuple, Optional, Tuple, TypeVar, Union, overload

import numpy as np

from . import _adir
from ._arrays import Image, from_native, is_path, to_native
from ._prior import Prior
from ._problem import Operator, Problem

Made = TypeVar("Made")

#: An event: its kind in ``"event"`` (``"sampling"``, ``"adapting"``, ``"warning"`` ...), and numbers.
Event = Dict[str, Any]
#: What is called with every event; ``True`` shows a bar.
Progress = Union[None, bool, Callable[[Event], None]]

#: Seconds between two looks at signals.
_PATIENCE = 0.05


def default_cache() -> Path:
    """The folder in which the program ``adir`` keeps adapters and indexes, too."""
    cache = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    return Path(cache) / "adir"


class Plan:
    """A checked request: ``str(plan)`` says every setting with its source, and the memory."""

    def __init__(self, native: _adir.Plan, flat: bool, names_output: bool):
        self._native, self._flat, self._names_output = native, flat, names_output

    def _made(self, native: _adir.Restored) -> Restored:
        return Restored(native, self._flat)

    def __str__(self) -> str:
        return str(self._native)

    @property
    def warnings(self) -> List[str]:
        """What is unusual about the request."""
        return self._native.warnings

    @property
    def memory(self) -> int:
        """The bytes of memory that it takes at most."""
        return self._native.memory


class FolderPlan:
    """A checked restoration of a folder, or of a part of one: which files are finished, and which are left to do."""

    def __init__(self, native: _adir.FolderPlan):
        self._native = native

    @property
    def files(self) -> int:
        """Images in the folder, in all parts."""
        return self._native.files

    @property
    def finished(self) -> int:
        """Files of this part that are finished: their records say what is asked for, of observations with these bytes."""
        return self._native.finished

    @property
    def to_do(self) -> List[str]:
        """Files of this part that are to be restored, below the folder."""
        return self._native.to_do

    @property
    def warnings(self) -> List[str]:
        """What is unusual about the folder."""
        return self._native.warnings

    def _made(self, native: Tuple[int, int, List[Tuple[str, str]]]) -> FolderDone:
        return FolderDone(*native)

    def __repr__(self) -> str:
        return f"<adir.FolderPlan {self.files} files: {self.finished} finished, {len(self.to_do)} to restore>"


@dataclass(frozen=True)
class FolderDone:
    """What became of the files of a folder, or of a part of one."""

    #: Files restored now.
    restored: int
    #: Files that were finished already.
    finished: int
    #: Files that could not be restored, each with the reason.
    failed: List[Tuple[str, str]]

    @property
    def ok(self) -> bool:
        """Whether every file has its result."""
        return not self.failed


@dataclass(frozen=True)
class Merged:
    """What the manifests of all parts of a folder say together."""

    #: Files with their results in place.
    done: int
    #: Files that could not be restored, each with the reason.
    failed: List[Tuple[str, str]]
    #: Files without a result, each with the part that has it.
    missing: List[Tuple[str, str]]
    #: Parts that have not run, each with the number of its files.
    absent: List[Tuple[str, int]]
    #: The joined manifest.
    path: Path

    @property
    def ok(self) -> bool:
        """Whether every file has its result."""
        return not (self.failed or self.missing or self.absent)


def merge(output: Union[str, "os.PathLike[str]"]) -> Merged:
    """Joins the manifests of all parts in a folder of results, and looks whether every result is in place, as ``adir merge``
    does."""
    done, failed, missing, absent, path = _adir.merge(output)
    return Merged(done, failed, missing, absent, Path(path))


class Restored:
    """What a run made."""

    def __init__(self, native: _adir.Restored, flat: bool):
        self._native, self._flat = native, flat
        self._image: Optional[np.ndarray] = None

    @property
    def image(self) -> np.ndarray:
        """The result, of the type of y; of an operator's observation float32 with white at 1."""
        if self._image is None:
            self._image = self._grey(from_native(self._native.image(), self._flat))
        return self._image

    def _grey(self, image: np.ndarray) -> np.ndarray:
        # Of an image without an axis of channels, the network made three alike.
        if self._flat and image.ndim == 3 and image.shape[2] == 3:
            mean = image.mean(axis=2)
            return mean.astype(image.dtype) if image.dtype.kind == "f" else np.rint(mean).astype(image.dtype)
        return image

    @property
    def samples(self) -> List[np.ndarray]:
        """The samples of which `image` is the mean, if there are several."""
        return [self._grey(from_native(sample, self._flat)) for sample in self._native.samples()]

    @property
    def deviation(self) -> Optional[np.ndarray]:
        """Where the samples differ, if there are several: uint16 in 1/256 of a grey level."""
        both = self._native.deviation()
        return None if both is None else from_native(both[0], True)

    @property
    def record(self) -> Dict[str, Any]:
        """What was done: settings, hashes, times, and the agreement with y."""
        return json.loads(self._native.record())

    @property
    def findings(self) -> Dict[str, Any]:
        """How the result agrees with y against what the noise allows, and what is wrong, in ``"faults"``."""
        return json.loads(self._native.findings()[0])

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with these numbers."""
        return self._native.findings()[1]

    def pil(self) -> Any:
        """The result as a PIL image of 8 bits."""
        from PIL import Image as pillow

        image = self.image
        if image.dtype.kind == "f":
            image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        elif image.dtype == np.uint16:
            image = np.rint(image / 257.0).astype(np.uint8)
        return pillow.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)

    def save(self) -> None:
        """Writes the files that ``output`` named."""
        self._native.save()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image.shape))
        return f"<adir.Restored {shape} {self.image.dtype}: {'PASS' if self.ok else 'WARN'}>"


class Run(Generic[Made]):
    """A run, as an iterator of events. The computation goes on by itself, on its own threads.

        run = engine.run(y, "sr4")
        for event in run:
            print(event)
        x = run.result().image

    Leaving the loop early does not stop it; `stop` does, after the present step.
    """

    def __init__(self, native: Any, made: Callable[[Any], Made]):
        self._native, self._made = native, made
        self._ended = False
        self._result: Optional[Made] = None

    def __iter__(self) -> Iterator[Event]:
        while not self._ended:
            event = self._native.next(_PATIENCE)
            if event is None:
                self._ended = True
            elif event:
                yield json.loads(event)

    def stop(self) -> None:
        """Asks the run to stop after its present step. `result` then raises KeyboardInterrupt."""
        self._native.stop()

    def result(self, progress: Progress = None) -> Made:
        """Waits for the end. Ctrl-C stops the run and raises KeyboardInterrupt."""
        if self._result is not None:
            return self._result
        show = _bar() if progress is True else progress or (lambda event: None)
        try:
            for event in self:
                show(event)
        except BaseException:
            self._native.stop()
            try:
                self._native.finish()
            except BaseException:  # What stopped the run says more.
                pass
            raise
        self._result = self._made(self._native.finish())
        return self._result


def _bar() -> Callable[[Event], None]:
    """A bar of sampling steps, by tqdm where it is installed, else lines on stderr."""
    try:
        from tqdm.auto import tqdm
    except ImportError:

        def line(event: Event) -> None:
            if event["event"] == "sampling":
                print(f"sample {event['sample'] + 1}, step {event['step']} of {event['steps']}", file=sys.stderr)

        return line
    bar = tqdm(unit="step")

    def show(event: Event) -> None:
        if event["event"] in ("sampling", "adapting"):
            total = event["steps"] * event["samples"] if "steps" in event else event["total"]
            bar.total, bar.n = total, event["step"] + event.get("sample", 0) * event.get("steps", 0)
            bar.set_description(event["event"])
            bar.refresh()

    return show


class _Folder(NamedTuple):
    """What is asked of a folder besides the settings for each file, as the native engine takes it."""

    scans: Union[str, "os.PathLike[str]"]
    output: Union[str, "os.PathLike[str]"]
    shard: str
    format: Optional[str]
    overlap: Optional[float]
    overwrite: bool


class Engine:
    """A prior and where it computes. Its weights are loaded once, and an engine serves any number of threads.

    * ``prior``: a `Prior`; or ``model``: the path of weights, with ``config`` where no .json file beside it says the network's
      settings. By default the prior that is part of the module.
    * ``clip``: a CLIP model (file or folder) that chooses neighbours, in place of the small encoder that is part of the module.
    * ``cache``: a folder for adapters, indexes and the states of interrupted runs; ``None`` keeps nothing.
    * ``memory``: refuse what needs more bytes.
    """

    def __init__(
        self,
        *,
        prior: Optional[Prior] = None,
        model: Union[None, str, "os.PathLike[str]"] = None,
        config: Union[None, str, "os.PathLike[str]"] = None,
        device: str = "cpu",
        precision: str = "f32",
        clip: Union[None, str, "os.PathLike[str]"] = None,
        cache: Union[None, str, "os.PathLike[str]"] = None,
        memory: Optional[int] = None,
    ):
        if prior is not None and model is not None:
            raise _adir.ConfigError("prior and model exclude each other")
        native = None if prior is None else prior._native
        self._native = _adir.Engine(native, model, config, device, precision, clip, cache, memory)

    def plan(
        self,
        y: Image,
        problem: Union[str, Operator, Problem],
        *,
        gallery: Union[None, str, "os.PathLike[str]"] = None,
        prompt: Optional[str] = None,
        adapt: Optional[str] = None,
        adapter: Union[None, str, "os.PathLike[str]"] = None,
        neighbours: int = 20,
        adapt_steps: Optional[int] = None,
        adapt_minutes: Optional[float] = None,
        seed: int = 0,
        samples: int = 1,
        aim: Union[None, float, str] = None,
        steps: Union[None, int, str] = None,
        method: Optional[str] = None,
        preset: str = "fast",
        tile: Optional[int] = None,
        white: Optional[float] = None,
        black: Optional[float] = None,
        page: Optional[int] = None,
        output: Union[None, str, "os.PathLike[str]"] = None,
        overwrite: bool = False,
        **of_problem: Any,
    ) -> Plan:
        """Checks a request, and computes nothing.

        * ``gallery``: a folder of images, or an index of one. The prior is adapted to those nearest to y (with ``prompt``: to a
          text, which needs ``clip``), and used adapted where held-out images say that it helps.
        * ``adapt="self"``: adapt to y itself. ``adapter``: use an adapter that is there already, by file or name.
        * ``aim``: ``"faithful"`` (0: nearest to the truth), ``"balanced"`` (0.5), ``"detailed"`` (1: as sharp as the truth), or between.
        * ``seed``: of the noise of sampling; -1 draws one, which the record holds.
        * ``samples``: number of samples; the result is their mean.
        * ``white``, ``black``: the values of y that are white and black, where its type does not say.
        * ``output``: a file that `Restored.save` writes, with a record beside it.
        * all others are settings of `Problem`: ``kernel``, ``mask``, ``sigma`` ...
        """
        if not isinstance(problem, Problem):
            problem = Problem(problem, **of_problem)
        elif of_problem:
            raise _adir.ConfigError(f"{next(iter(of_problem))} belongs into the Problem")
        folder = y if isinstance(y, _Folder) else None
        if folder is not None:
            if output is not None or overwrite:
                raise _adir.ConfigError("of a folder, plan_folder takes output and overwrite")
            if seed == -1:
                raise _adir.ConfigError("a seed drawn at each start would make finished files count as unfinished")
            if problem.operator is not None or set(problem.beside()):
                raise _adir.ConfigError("of a folder, operators have names and masks are files: records hold them")
            y = folder.scans
        if page is not None and not is_path(y):
            raise _adir.ConfigError("page is that of a file, and y is in memory")
        if seed == -1:
            seed = secrets.randbits(53)
        if not 0 <= seed < 2**64:
            raise _adir.ConfigError(f"seed {seed}: expected 0 to 2^64 - 1, or -1 to draw one")
        aims = {"faithful": 0.0, "balanced": 0.5, "detailed": 1.0}
        if isinstance(aim, str) and aim not in aims:
            raise _adir.ConfigError(f"aim {aim!r}: expected faithful, balanced, detailed, or 0 to 1")
        overrides = {"steps": None if steps is None else str(steps), "method": method}
        overrides["aim"] = aims[aim] if isinstance(aim, str) else aim
        sampling = {"preset": preset, "seed": seed, "samples": samples, "tile": tile}
        sampling["overrides"] = {name: value for name, value in overrides.items() if value is not None}
        reading = {"white": white, "black": black, "page": page}
        request: Dict[str, Any] = {
            "input": os.fspath(y) if is_path(y) else "y",
            "problem": problem.json(),
            "sampling": {name: value for name, value in sampling.items() if value is not None},
            "reading": {name: value for name, value in reading.items() if value is not None},
        }
        adaptation = _adaptation(gallery, prompt, adapt, adapter, preset)
        training = {"iterations": adapt_steps, "minutes": adapt_minutes}
        training = {name: value for name, value in training.items() if value is not None}
        if adaptation is None and training:
            raise _adir.ConfigError(f"{next(iter(training))} of an adaptation without a gallery has no effect")
        if adaptation is not None:
            request["adapt"] = {**adaptation, "neighbours": neighbours, "overrides": training}
        if output is not None:
            request["output"] = {"path": os.fspath(output), "overwrite": overwrite}
        if folder is not None:
            return FolderPlan(self._native.plan_folder(json.dumps(request), *folder))  # type: ignore[return-value]
        beside, flat = problem.beside(), False
        if problem.operator is not None and is_path(y):
            raise _adir.ConfigError("with an operator, y is an array")
        if not is_path(y):
            array = problem.observation(y)
            if problem.operator is not None:
                beside["measured"] = array.tobytes(), array.shape
                flat = len(problem.operator.domain) == 2
            else:
                beside["input"], flat = to_native(array), array.ndim == 2
        return Plan(self._native.plan(json.dumps(request), **beside), flat, output is not None)

    def plan_folder(
        self,
        scans: Union[str, "os.PathLike[str]"],
        output: Union[str, "os.PathLike[str]"],
        problem: Union[str, Operator, Problem],
        *,
        shard: str = "1/1",
        format: Optional[str] = None,
        overlap: Optional[float] = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> FolderPlan:
        """Checks the restoration of all images below ``scans`` into files of their names below ``output``, as ``adir restore``
        does it for a folder: with the same manifests, and with the same rule for what is finished.

        * ``shard``: the part of the sorted list to restore, ``"I/N"``; processes on any machines may each take one.
        * ``format``: of the results (``"png"``, ``"tif"`` ...); by default that of each observation.
        * ``overlap``: with a gallery, the share of nearest images from which observations share an adaptation.
        * ``overwrite``: replace results of other settings. What is finished stays.
        * all others are settings of `plan`, with files for masks.
        """
        folder = _Folder(scans, output, shard, format, overlap, overwrite)
        return self.plan(folder, problem, **settings)  # type: ignore[return-value]

    @overload
    def start(self, plan: Plan) -> Run[Restored]: ...

    @overload
    def start(self, plan: FolderPlan) -> Run[FolderDone]: ...

    def start(self, plan: Any) -> Any:
        """Begins to carry out a plan."""
        begin = self._native.start_folder if isinstance(plan, FolderPlan) else self._native.start
        return Run(begin(plan._native), plan._made)

    def run(self, y: Image, problem: Union[str, Operator, Problem], **settings: Any) -> Run[Restored]:
        """Begins a restoration; settings as for `plan`."""
        return self.start(self.plan(y, problem, **settings))

    def restore_folder(
        self,
        scans: Union[str, "os.PathLike[str]"],
        output: Union[str, "os.PathLike[str]"],
        problem: Union[str, Operator, Problem],
        *,
        progress: Progress = None,
        **settings: Any,
    ) -> FolderDone:
        """Restores all images of a folder that are not finished; settings as for `plan_folder`. A file that cannot be restored
        stops nothing. After an interruption the same call goes on."""
        return self.start(self.plan_folder(scans, output, problem, **settings)).result(progress)

    def restore(
        self, y: Image, problem: Union[str, Operator, Problem], *, progress: Progress = None, **settings: Any
    ) -> Restored:
        """Restores y; settings as for `plan`. Files are written if ``output`` names one."""
        plan = self.plan(y, problem, **settings)
        restored = self.start(plan).result(progress)
        if plan._names_output:
            restored.save()
        return restored

    @property
    def placement(self) -> Tuple[str, str]:
        """Device and precision."""
        return self._native.placement

    def __repr__(self) -> str:
        return f"<adir.Engine {self._native.model} on {' in '.join(self.placement)}>"


def _adaptation(
    gallery: Any, prompt: Optional[str], adapt: Optional[str], adapter: Any, preset: str
) -> Optional[Dict[str, Any]]:
    """What is adapted to, and when it is used, as the program decides it."""
    asked = [name for name, value in (("gallery", gallery), ("adapt", adapt), ("adapter", adapter)) if value is not None]
    if len(asked) > 1:
        raise _adir.ConfigError(f"{asked[0]} and {asked[1]} exclude each other")
    if prompt is not None and gallery is None:
        raise _adir.ConfigError("prompt needs a gallery")
    if adapt is not None:
        if adapt != "self":
            raise _adir.ConfigError(f"adapt {adapt!r}: expected self, or a gallery in its place")
        return {"target": "itself", "keep": "always"}
    if adapter is not None:
        return {"target": {"adapter": os.fspath(adapter)}, "keep": "always"}
    if gallery is None:
        return None
    if prompt is not None:
        return {"target": {"text": {"gallery": os.fspath(gallery), "prompt": prompt}}, "keep": "always"}
    keep = "always" if preset == "paper" else "if_held_out_improves"
    return {"target": {"gallery": os.fspath(gallery)}, "keep": keep}


_engine: Optional[Engine] = None


def restore(
    y: Image,
    task: Union[str, Operator, Problem],
    *,
    engine: Optional[Engine] = None,
    progress: Progress = None,
    **settings: Any,
) -> Restored:
    """Restores y, the observation of an image through a known degradation.

        adir.restore("y.png", "sr4", gallery="photos").image
        adir.restore(y, "deblur", kernel="gaussian:15:1.6", sigma=2.5)
        adir.restore(y, "inpaint", mask=holes, samples=4).deviation

    ``settings`` are those of `Problem` (``kernel``, ``mask``, ``ignore``, ``sigma``, ``gain``, ``boundary``, ``linear_light``, ``keep_margin``)
    and of `Engine.plan`. ``progress`` is called with every event, or shows a bar if it is ``True``. Ctrl-C stops after the
    present step and raises KeyboardInterrupt; adaptations go on where they were when the same is asked for again.

    By default one engine with the embedded prior serves all calls, and keeps adapters where the program ``adir`` does
    (`default_cache`).
    """
    global _engine
    if engine is None:
        _engine = _engine or Engine(cache=default_cache())
        engine = _engine
    return engine.restore(y, task, progress=progress, **settings)
