"""The point loop of GPUs gives the masks of the batched path: here on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from densecli import model
from densecli.engine import device_decoder, device_run, memory, unasked
from densecli.engine.acceleration import Acceleration, Function, Kept
from densecli.engine.device_loop import DeviceLoop, OnTheWay
from densecli.engine.device_steps import Steps, token_products
from densecli.engine.generator import Generated, MaskGenerator
from densecli.engine.parameters import GeneratorParameters, Limits
from tests.conftest import CHECKOUT, FIRST_STARTER
from tests.same_masks import MOST_PIXELS, MOST_SHARE

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LOOSE = {"points_per_side": 12, "pred_iou_thresh": 0.35, "stability_score_thresh": 0.55}
SETTINGS = {
    "some survive": {},
    "crops": {"points_per_side": 8, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "single mask": {"multimask_output": False},
    "other offset and threshold": {"mask_threshold": 0.5, "stability_score_offset": 0.6},
    "no filters": {"points_per_side": 5, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    "nothing survives": {"pred_iou_thresh": 1.0},
}


def generated(
    network, pixels: np.ndarray, settings: dict, *, loop: bool, limits: Limits | None = None, **options
) -> Generated:
    generator = MaskGenerator(network, GeneratorParameters(**{**LOOSE, **settings}), limits=limits)
    generator.device_loop = loop
    for name, value in options.items():
        setattr(generator, name, value)
    return generator.generate(pixels)


def assert_alike(expected: Generated, actual: Generated) -> None:
    """Nearly the same masks: a candidate near a threshold may differ."""
    theirs, ours = ([m.segmentation for m in generated.masks] for generated in (expected, actual))
    assert abs(len(ours) - len(theirs)) <= max(2, len(theirs) // 10)
    assert np.median(coco.iou(ours, theirs, [0] * len(theirs)).max(1)) > 0.99


def assert_same(expected: Generated, actual: Generated) -> None:
    assert len(actual.masks) == len(expected.masks)
    for a, b in zip(actual.masks, expected.masks, strict=True):
        # A pixel on the edge whose logit rounds to the other side of the threshold.
        differing = np.count_nonzero(a.decode() != b.decode())
        assert differing <= max(MOST_PIXELS, MOST_SHARE * b.area), (a.id, differing)
        assert a.bbox == pytest.approx(b.bbox, abs=1)
        assert a.point_coords == b.point_coords and a.crop_box == b.crop_box
        assert a.predicted_iou == pytest.approx(b.predicted_iou, abs=1e-5)
        # Stability is a ratio of areas, in each of which such a pixel may lie.
        assert a.stability_score == pytest.approx(b.stability_score, abs=1e-5 + 2 * MOST_PIXELS / b.area, nan_ok=True)
    near = {"best_predicted_iou": pytest.approx(expected.funnel.best_predicted_iou, abs=1e-5)}
    near["best_stability"] = pytest.approx(expected.funnel.best_stability, abs=1e-3)
    near["largest_area"] = pytest.approx(expected.funnel.largest_area, abs=MOST_PIXELS)  # as above
    assert vars(actual.funnel) == {**vars(expected.funnel), **near}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("photo", ["coffee", pytest.param("astronaut", marks=pytest.mark.slow)])
def test_same_masks(starter, photos, photo: str, name: str) -> None:
    # 20 points a tile: several tiles, a last one that is not full, and survivors in steps of 5.
    limits = Limits(points_per_batch=20)
    expected = generated(starter, photos[photo], SETTINGS[name], loop=False)
    actual = generated(starter, photos[photo], SETTINGS[name], loop=True, limits=limits)
    assert name == "nothing survives" or len(expected.masks) >= 5
    assert_same(expected, actual)
    assert actual.warnings == []


@pytest.mark.parametrize("name", ["some survive", "crops", "nothing survives"])
def test_survivors_counted_where_they_are(starter, photos, name: str, monkeypatch) -> None:
    """As with the fused kernels: all of a tile's prompts are given to the upscaling, and no count comes to the host."""
    monkeypatch.setattr(Steps, "counted_on_device", True)
    monkeypatch.setattr(OnTheWay, "number", lambda self: pytest.fail("the host was told"))
    expected = generated(starter, photos["coffee"], SETTINGS[name], loop=False)
    actual = generated(starter, photos["coffee"], SETTINGS[name], loop=True, limits=Limits(points_per_batch=20))
    assert_same(expected, actual)
    assert actual.warnings == []


@pytest.mark.parametrize("tile", [1, 7, 64, 1000])
def test_any_tile(starter, photos, tile: int) -> None:
    expected = generated(starter, photos["chelsea"], {}, loop=False)
    actual = generated(starter, photos["chelsea"], {}, loop=True, limits=Limits(points_per_batch=tile))
    assert_same(expected, actual)
    assert actual.warnings == []


def test_progress_ends_with_all_points(starter, photos) -> None:
    parameters = GeneratorParameters(**{**LOOSE, **SETTINGS["crops"]})
    generator = MaskGenerator(starter, parameters, limits=Limits(points_per_batch=10))
    generator.device_loop = True
    calls: list[tuple[int, int]] = []
    generator.generate(photos["coffee"], lambda done, total: calls.append((done, total)))
    assert calls[-1] == (64 + 4 * 16, 64 + 4 * 16)
    assert calls == sorted(set(calls))


@pytest.mark.parametrize("acceleration", [Acceleration(), Acceleration(fused=True)], ids=["plain", "fused"])
@pytest.mark.parametrize("loop", [True, False], ids=["loop", "batches"])
@pytest.mark.parametrize("error", [KeyError("called off"), MemoryError("of whoever was told")], ids=["stop", "memory"])
def test_what_progress_raises_is_its_callers(
    starter, photos, error: Exception, loop: bool, acceleration: Acceleration, monkeypatch
) -> None:
    """As to call a run off: nothing failed here, nothing is tried another way, and the next photo goes as before."""
    monkeypatch.setattr(device_decoder, "decoder_kernels", lambda: None)  # which the CPU cannot run
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 2:
            raise error

    generator = MaskGenerator(starter, GeneratorParameters(points_per_side=5), limits=Limits(points_per_batch=9))
    generator.device_loop, generator.acceleration = loop, acceleration
    with pytest.raises(type(error)) as raised:
        generator.generate(photos["coffee"], progress)
    assert raised.value is error and len(calls) == 2
    assert generator.device_loop == loop and generator.acceleration == acceleration
    assert Kept.by(starter).unasked and not Kept.by(starter).refused
    assert generator.generate(photos["coffee"]).warnings == []


def test_out_of_memory_halves_the_tile_and_counts_once(starter, photos, monkeypatch) -> None:
    """Memory that runs out late, at the winners: everything of that crop is done again, in smaller tiles."""
    masks = DeviceLoop.masks

    def running_out(self, won):
        if self.size.prompts > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return masks(self, won)

    monkeypatch.setattr(DeviceLoop, "masks", running_out)
    actual = generated(starter, photos["coffee"], {}, loop=True, limits=Limits(points_per_batch=20))
    assert actual.warnings == [f"out of memory: went on with {n} points per batch" for n in (10, 5)]
    assert_same(generated(starter, photos["coffee"], {}, loop=False), actual)


@pytest.fixture
def anew(starter):
    """The starter, which forgets afterwards what failed with it."""
    yield starter
    vars(starter).pop("_densecli_kept", None)


def test_a_loop_that_fails_is_left_for_the_batched_path(starter, anew, photos, monkeypatch) -> None:
    """Masks and one warning, and no second try with the next crop or photo."""
    tries = []

    def failing(self, advanced):
        tries.append(self)
        raise RuntimeError("CUDA error: no kernel image is available\nand a page of advice")

    monkeypatch.setattr(DeviceLoop, "all_scores", failing)
    for photo in ("coffee", "chelsea"):
        # As for each photo of a run, a generator of its own.
        actual = generated(anew, photos[photo], SETTINGS["crops"], loop=True)
        assert_same(generated(starter, photos[photo], SETTINGS["crops"], loop=False), actual)
        if photo == "coffee":
            assert len(actual.warnings) == 1 and "\n" not in actual.warnings[0]
            assert "(RuntimeError: CUDA error: no kernel image is available)" in actual.warnings[0]
        else:
            assert actual.warnings == []
    assert len(tries) == 1
    generated(anew, photos["coffee"], {"points_per_side": 2}, loop=True, dtype=torch.bfloat16)
    assert len(tries) == 2, "another type may well work"


def test_what_the_loop_leaves_to_the_batched_path(starter) -> None:
    def usable(**parameters) -> bool:
        return device_run.usable(MaskGenerator(starter, GeneratorParameters(**parameters)))

    assert usable() and usable(multimask_output=False)
    assert not usable(use_m2m=True)
    starter.sam_mask_decoder.dynamic_multimask_via_stability = True
    try:
        assert usable() and not usable(multimask_output=False)
    finally:
        starter.sam_mask_decoder.dynamic_multimask_via_stability = False


def test_numbers_that_half_precision_cannot_hold(anew, photos) -> None:
    """A network whose image tokens overflow float16 is served by the batched path, and says so once."""
    norm = anew.sam_mask_decoder.transformer.layers[0].norm4.weight
    before = norm.clone()
    try:
        norm.mul_(1e5)
        options = {"loop": True, "dtype": torch.bfloat16}
        settings = {"pred_iou_thresh": 0.0, "points_per_side": 3}
        actual, next_one = (generated(anew, photos["coffee"], settings, **options) for _ in range(2))
    finally:
        norm.copy_(before)
    assert actual.funnel.points == next_one.funnel.points == 9
    assert [w for w in actual.warnings if "half precision does not hold" in w]
    assert next_one.warnings == [], "it was tried again"
    assert Kept.by(anew).loop_refused == {torch.bfloat16}


def test_sizes_follow_the_memory() -> None:
    official = memory.DecoderShape(tokens=4096, channels=256, outputs=3, element_size=2)
    starter = memory.DecoderShape(tokens=576, channels=128, outputs=3, element_size=2)

    def size(budget: int, shape: memory.DecoderShape = official, points: int = 4096, **options) -> memory.LoopSize:
        return memory.choose_loop_size("auto", budget, shape, points, **options)

    assert size(1 << 40) == memory.LoopSize(128, 32)
    assert size(1 << 40, captured=True) == memory.LoopSize(128, 16)
    assert size(1 << 40, points=100) == memory.LoopSize(100, 25)
    assert size(1 << 40, points=100, captured=True) == size(1 << 40, captured=True)
    assert size(1 << 40, starter).prompts > 1000
    assert size(0) == memory.LoopSize(1, 1)
    for budget in (1 << 31, 1 << 30, 1 << 28, 1 << 26):
        chosen = size(budget)
        assert chosen.prompts * official.loop_bytes + chosen.survivors * official.survivor_bytes <= budget
        assert chosen.prompts % chosen.survivors == 0
    assert memory.choose_loop_size(48, 0, official, 4096) == memory.LoopSize(48, 12)
    # The fused kernels upscale a tile's survivors together, and need less memory for each.
    assert size(1 << 40, fused=True) == size(1 << 40, fused=True, captured=True) == memory.LoopSize(512, 512)
    assert size(1 << 40, points=100, fused=True).halved() == memory.LoopSize(50, 50)
    assert size(1 << 28, fused=True).prompts * official.fused_bytes <= 1 << 28
    assert memory.choose_loop_size(47, 0, official, 4096, fused=True) == memory.LoopSize(47, 47)
    assert 512 * official.fused_bytes < 1.5e9
    # With the 0.9 GB of the large network that leaves room below 3 GB, whatever the photo's size.
    assert 128 * official.loop_bytes + 32 * official.survivor_bytes < 1.8e9


@pytest.mark.slow
def test_photos_of_other_sizes_compile_nothing_again(first_starter, photos) -> None:
    """Shapes depend on the network only; an image's size enters through tables."""
    from torch._dynamo.utils import counters

    accelerated = Acceleration(backend="aot_eager")
    options = {"loop": True, "limits": Limits(points_per_batch=20), "acceleration": accelerated}
    torch._dynamo.reset()
    counters.clear()
    first_starter.image_encoder.neck.position_encoding.cache.clear()  # as in a new process
    try:
        for number, name in enumerate(["coffee", "astronaut", "chelsea"]):
            assert len({p.shape for p in photos.values()}) == 3
            actual = generated(first_starter, photos[name], {}, **options)
            assert actual.warnings == []
            assert_same(generated(first_starter, photos[name], {}, loop=False), actual)
            if number == 0:
                compiled = counters["stats"]["unique_graphs"]
                assert compiled >= 3, "encoder, transformer and upscaling"
        assert counters["stats"]["unique_graphs"] == compiled
    finally:
        del vars(first_starter)["_densecli_kept"]
        torch._dynamo.reset()


def test_a_compiler_that_fails_is_left_out(starter, photos) -> None:
    """A user without a C compiler gets masks and one warning, and no second try with the next photo."""

    def broken(graph, inputs):
        raise RuntimeError("no compiler was found\nand a page of details")

    options = {"loop": True, "acceleration": Acceleration(backend=broken), "limits": Limits(compile=True)}
    try:
        actual = generated(starter, photos["coffee"], {}, **options)
        assert len(actual.warnings) == 1 and "\n" not in actual.warnings[0]
        assert actual.warnings[0].startswith("compile: true did not work here and went unused (")
        assert_same(generated(starter, photos["coffee"], {}, loop=False), actual)
        assert Kept.by(starter).refused
        assert not device_run.acceleration_of(True, starter, torch.device("cuda"), torch.bfloat16)
    finally:
        del vars(starter)["_densecli_kept"]
        torch._dynamo.reset()


@pytest.mark.parametrize("shared_memory, fused", [(0, False), (64 << 10, False), (99 << 10, True), (227 << 10, True)])
def test_fused_kernels_where_the_device_can_hold_them(
    starter, first_starter, shared_memory: int, fused: bool, monkeypatch
) -> None:
    """Old cards, float32 and networks of other sides stay on plain PyTorch; no device is asked on the CPU."""
    asked = []
    monkeypatch.setattr(device_run, "shared_memory", lambda device: asked.append(device) or shared_memory)
    half, cuda = torch.bfloat16, torch.device("cuda")
    assert device_run.acceleration_of(False, first_starter, torch.device("cpu"), half) == Acceleration()
    assert asked == []
    captured = Acceleration(captured=True, fused=True) if fused else Acceleration("inductor", captured=True)
    assert device_run.acceleration_of(False, first_starter, cuda, half) == Acceleration(fused=fused)
    assert device_run.acceleration_of(True, first_starter, cuda, half) == captured
    assert device_run.acceleration_of(False, starter, cuda, half) == Acceleration(fused=fused)
    narrow = model.build_network(CHECKOUT / "training" / "from_scratch.yaml")
    assert device_run.acceleration_of(False, narrow, cuda, half) == Acceleration(), "192 wide"


def test_memory_that_only_a_reference_cycle_holds_is_given_back() -> None:
    """Tracebacks hold frames, and frames hold a tile's tensors, until Python happens to look."""
    loop: list = [torch.zeros(4)]
    loop.append(loop)
    held = weakref.ref(loop[0])
    gc.disable()
    try:
        del loop
        assert held() is not None
        memory.release_cached(torch.device("cpu"))
        assert held() is None
    finally:
        gc.enable()


def test_what_nobody_wished_for_is_worth_it_the_second_time_and_with_memory(monkeypatch) -> None:
    free = 10 << 30
    monkeypatch.setattr(memory, "budget_bytes", lambda device, ceiling: free)
    generator = SimpleNamespace(model=torch.nn.Linear(1, 1), device=torch.device("cuda"), limits=Limits())
    kept = Kept.by(generator.model)
    worth = partial(unasked.worth_capturing, generator)
    assert [worth("a", 1 << 30), worth("b", 1 << 30)] == [False, False]
    assert [worth("a", 1 << 30), worth("a", 9 << 30)] == [True, False]
    kept.made["a"] = "captured"
    free = 0
    assert worth("a", 1 << 30), "its memory is its own already"
    assert not worth("b", 1 << 30)
    free = 10 << 30
    unasked.give_up(SimpleNamespace(model=generator.model, device=torch.device("cpu")))
    assert kept.made == {} and not worth("a", 1 << 30) and not worth("b", 1 << 30)
    on_a_cpu = SimpleNamespace(model=torch.nn.Linear(1, 1), device=torch.device("cpu"), limits=Limits())
    assert not any(unasked.worth_capturing(on_a_cpu, "a", 1) for _ in range(3))


def test_a_ceiling_holds_for_a_network_that_ran_without(monkeypatch) -> None:
    """What was made without the ceiling has sizes of its own."""
    monkeypatch.setattr(memory, "budget_bytes", lambda device, ceiling: int((ceiling or 40) * 1e9))
    network = torch.nn.Linear(1, 1)
    decoder = SimpleNamespace(height=64, width=64, channels=256, outputs=lambda multimask: 3)
    prompted = SimpleNamespace(decoder=decoder, points=range(4096))

    def sizes(acceleration: Acceleration, ceiling: float | None) -> list[int]:
        generator = SimpleNamespace(
            model=network,
            dtype=torch.bfloat16,
            device=torch.device("cuda"),
            acceleration=acceleration,
            parameters=GeneratorParameters(),
            limits=Limits(max_memory_gb=ceiling),
        )
        run = SimpleNamespace(loop_limit=None)
        return [device_run._way(generator, prompted, run)[0].prompts for _ in range(2)]

    for acceleration in (Acceleration(captured=True, fused=True), Acceleration(fused=True)):
        large, small = sizes(acceleration, None), sizes(acceleration, 1)
        assert large[0] == large[1] > small[0] == small[1]
        assert sizes(acceleration, None) == large


def test_what_is_kept_may_be_dropped_while_another_thread_makes_more() -> None:
    kept, ends = Kept(), threading.Event()

    def make() -> None:
        while not ends.is_set():
            for n in range(100):
                kept.made["size", n] = n

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3000):
            kept.keys("unasked")
            kept.drop("size")
    finally:
        ends.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_of_products_is_as_before_afterwards(dtype: torch.dtype) -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), token_products(dtype):
        assert torch.get_float32_matmul_precision() == (before if dtype == torch.float32 else "high")
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before == "highest"


def test_precision_of_products_with_threads_that_overlap() -> None:
    """Who leaves first does not switch it off for the other, and who leaves last does not leave it on."""
    before, seen = torch.get_float32_matmul_precision(), []
    both, first_left = threading.Barrier(2), threading.Event()

    def first() -> None:
        with token_products(torch.float16):
            both.wait(10)
        first_left.set()

    def second() -> None:
        with token_products(torch.bfloat16):
            both.wait(10)
            assert first_left.wait(10)
            seen.append(torch.get_float32_matmul_precision())

    for _ in range(2):
        threads = [threading.Thread(target=one) for one in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_float32_matmul_precision() == before == "highest"
        both.reset()
        first_left.clear()
    assert seen == ["high", "high"]


class FakeGraphs:
    """Stands in for torch.cuda where graphs are captured; counts how many captures are under way at a time."""

    def __init__(self, monkeypatch) -> None:
        self.under_way = self.most = self.captured = 0
        stream = SimpleNamespace(wait_stream=lambda other: None)
        for name, fake in {
            "Stream": lambda *given: stream,
            "current_stream": lambda *given: stream,
            "stream": lambda stream: nullcontext(),
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph": self.graph,
            "graph_pool_handle": lambda: 0,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    @contextmanager
    def graph(self, graph, pool, capture_error_mode: str):
        assert capture_error_mode == "thread_local"
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        time.sleep(0.05)  # for another thread to come in between
        yield
        self.under_way -= 1
        self.captured += 1


def test_one_capture_at_a_time(monkeypatch) -> None:
    """Of networks that are at work in several threads, as PyTorch allows no second one in a process."""
    fake, begin = FakeGraphs(monkeypatch), threading.Barrier(3)

    def capture() -> None:
        double = Function(lambda x: 2 * x, Acceleration(captured=True), Kept())
        begin.wait(10)
        double(torch.ones(2))

    threads = [threading.Thread(target=capture) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.captured == 3 and fake.most == 1


def test_what_is_captured_after_a_drop_has_memory_of_its_own(monkeypatch) -> None:
    """PyTorch refuses to capture into a pool whose last graph is gone."""
    handles = iter(range(100))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    kept = Kept()
    before = {kept.pool(0), kept.pool(1)}
    assert {kept.pool(0), kept.pool(1)} == before
    kept.drop("steps")
    assert not before & {kept.pool(0), kept.pool(1)}


@needs_gpu
def test_graphs_are_captured_again_on_a_gpu_after_a_drop(starter_on_gpu, photos) -> None:
    """As after running out of memory, and where a benchmark tries one way after the other."""
    options = {"loop": True, "dtype": torch.bfloat16, "acceleration": Acceleration(captured=True)}
    first = generated(starter_on_gpu, photos["coffee"], {}, **options)
    Kept.by(starter_on_gpu).drop()
    second = generated(starter_on_gpu, photos["coffee"], {}, **options)
    assert first.warnings == second.warnings == []
    assert_same(first, second)


@pytest.fixture(scope="module")
def starter_on_gpu():
    """The first starter: its decoder's sides are powers of two, as the official ones', so the kernels can serve it."""
    return model.load(model.Choice("first", *FIRST_STARTER), torch.device("cuda"), "fp32").network


CAPTURED = [
    Acceleration(),
    Acceleration(captured=True),
    Acceleration(fused=True),
    Acceleration(captured=True, fused=True),
    pytest.param(Acceleration("inductor", captured=True), marks=pytest.mark.slow),
]


@needs_gpu
@pytest.mark.parametrize("acceleration", CAPTURED, ids=["plain", "graphs", "fused", "fused graphs", "compiled"])
@pytest.mark.parametrize("name", SETTINGS)
def test_same_masks_on_a_gpu(starter_on_gpu, photos, name: str, acceleration: Acceleration) -> None:
    """Against the batched path, float32 on both; photos of two sizes with one compilation."""
    limits = Limits(points_per_batch=20)
    for photo in ("coffee", "astronaut"):
        expected = generated(starter_on_gpu, photos[photo], SETTINGS[name], loop=False)
        options = {"loop": True, "limits": limits, "acceleration": acceleration}
        actual = generated(starter_on_gpu, photos[photo], SETTINGS[name], **options)
        assert actual.warnings == []
        assert_same(expected, actual)


@needs_gpu
@pytest.mark.parametrize("acceleration", CAPTURED[:4], ids=["plain", "graphs", "fused", "fused graphs"])
def test_nothing_waits_on_a_gpu(starter_on_gpu, photos, acceleration: Acceleration, monkeypatch) -> None:
    """PyTorch itself finds no operator in the loop that waits for the device."""
    scored = DeviceLoop.all_scores
    loops = []

    def watched(self, advanced):
        loops.append(self)
        # The first one warms up, in the second the fused steps are captured.
        torch.cuda.set_sync_debug_mode("error" if len(loops) > 2 else "default")
        try:
            return scored(self, advanced)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(DeviceLoop, "all_scores", watched)
    for _ in range(3):
        options = {"loop": True, "dtype": torch.bfloat16, "acceleration": acceleration}
        actual = generated(starter_on_gpu, photos["coffee"], {}, **options)
        assert actual.masks
        assert actual.warnings == [], "a loop that failed was left"
    assert len(loops) == 3


@needs_gpu
def test_what_nobody_wished_for_is_captured_on_a_gpu_at_the_second_photo(starter_on_gpu, photos) -> None:
    """And gives the same; where memory is short, nothing is."""
    options = {"loop": True, "dtype": torch.bfloat16, "acceleration": Acceleration(fused=True)}
    kept = Kept.by(starter_on_gpu)
    for limits, graphs in ((Limits(max_memory_gb=2.0), [0, 0, 0]), (None, [0, 2, 2])):
        kept.drop()
        kept.seen.clear()
        runs, captured = [], []
        for _ in range(3):
            runs.append(generated(starter_on_gpu, photos["coffee"], {}, limits=limits, **options))
            captured.append(sum(key[0] in ("encoder", "steps") for key in kept.made))
            assert runs[-1].masks and runs[-1].warnings == []
        assert captured == graphs
        # The encoder's libraries may choose other kernels under a capture, which round otherwise in half precision.
        assert_alike(runs[0], runs[1])
        assert_same(runs[1], runs[2])


@needs_gpu
def test_a_capture_that_fails_on_a_gpu_costs_nothing(starter_on_gpu, photos, monkeypatch) -> None:
    """Nobody asked for it, so nobody is told; and it is not tried again."""

    def failing(*given, **named):
        tries.append(given)
        raise RuntimeError("operation not permitted when stream is capturing")

    tries: list = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", failing)
    kept = Kept.by(starter_on_gpu)
    kept.drop()
    kept.seen.clear()
    options = {"loop": True, "dtype": torch.bfloat16, "acceleration": Acceleration(fused=True)}
    try:
        first, second, third = (generated(starter_on_gpu, photos["coffee"], {}, **options) for _ in range(3))
    finally:
        kept.unasked = True
    assert len(tries) == 1
    assert first.warnings == second.warnings == third.warnings == []
    assert_same(first, second)
    assert_same(first, third)


@needs_gpu
@pytest.mark.parametrize("acceleration", CAPTURED[:4], ids=["plain", "graphs", "fused", "fused graphs"])
def test_half_precision_on_a_gpu(first_starter, starter_on_gpu, photos, acceleration: Acceleration) -> None:
    for photo in photos.values():
        options = {"loop": True, "dtype": torch.bfloat16, "acceleration": acceleration}
        found = generated(starter_on_gpu, photo, {}, **options)
        assert found.warnings == []
        assert_alike(generated(first_starter, photo, {}, loop=False), found)


def test_compile_means_nothing_where_the_loop_is_not_used(starter) -> None:
    assert not MaskGenerator(starter, limits=Limits(compile=True)).acceleration


def test_autocast_of_the_caller_reaches_no_step(starter, photos) -> None:
    """Notebooks of SAM 2 switch it on for all that follows; the loop failed in it, and was tried no more."""
    expected = generated(starter, photos["coffee"], SETTINGS["some survive"], loop=True)
    with torch.autocast("cpu", torch.bfloat16):
        actual = generated(starter, photos["coffee"], SETTINGS["some survive"], loop=True)
    assert actual.warnings == []
    assert_same(expected, actual)
