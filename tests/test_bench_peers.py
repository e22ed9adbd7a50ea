"""Peers and ablations: all of them compute the same thing, so that their times can be compared."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from animate_rt.__main__ import main
from animate_rt.benchmarks.ablate import consistent_inputs, guided, to_pixels
from animate_rt.benchmarks.baselines import plain_unet
from animate_rt.benchmarks.baselines.plain import PlainPipeline
from animate_rt.benchmarks.baselines.public_parts import POSE_GUIDER, ExportedPart, PublicLoop, public_parts
from animate_rt.benchmarks.instruments.own_process import Failed, Worker
from animate_rt.benchmarks.peers import bench_peers
from animate_rt.benchmarks.random_checkpoint import write_random_checkpoint
from animate_rt.benchmarks.renderers import drawn, from_files, load_eager
from animate_rt.benchmarks.sizes import RECORDED_CHECKPOINT, SIZES, computes_bf16, in_precision, workload
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.contract import DENOISING_UNET, REFERENCE_NET, ShapeBucket, contracts
from animate_rt.engines.cpu.openvino import PASSES
from animate_rt.export import load_checkpoint
from animate_rt.export.graphs import ReferenceNetGraph, VAEDecoderGraph
from torch import Tensor

WORK = workload(64, 96, window=6, steps=1, frames=3, overlap=2)
BUCKET = ShapeBucket(width=64, height=96, window=3)
NETWORKS = partial(from_files, *RECORDED_CHECKPOINT)


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load_checkpoint(*RECORDED_CHECKPOINT)


def test_the_loop_over_public_parts_equals_the_plain_pipeline(loaded: Any) -> None:
    generator = torch.Generator().manual_seed(0)

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    inputs = (
        pixels(1, 96, 64, 3),
        pixels(1, 224, 224, 3),
        pixels(3, 96, 64, 3),
        torch.randn(3, 4, 12, 8, generator=generator),
    )
    options: dict[str, Any] = {"steps": 2, "guidance_scale": 3.5, "windows": [[0, 1, 2]]}
    expected = PlainPipeline(loaded)(*inputs, **options)
    found = PublicLoop(loaded, public_parts(loaded))(*inputs, **options)
    assert torch.equal(found, expected)


def test_an_exported_part_equals_its_module(loaded: Any, tmp_path: Path) -> None:
    part = ExportedPart(POSE_GUIDER, loaded.pose_guider, tmp_path)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = loaded.pose_guider(x)
        for _ in range(2):
            assert torch.allclose(part(x), expected, atol=1e-5)
    assert not list(tmp_path.iterdir())


def test_a_peer_that_cannot_load_fails_with_one_line() -> None:
    nowhere = partial(load_eager, partial(from_files, Path("nowhere"), None), "fp32")
    with Worker(nowhere, WORK, lambda: None) as worker:
        with pytest.raises(Failed, match="InputMissing: nowhere: expected a checkpoint directory"):
            worker.load(60)
        process = worker.process
    assert not process.is_alive()


def test_a_peer_that_exceeds_its_time_limit_fails() -> None:
    with Worker(partial(load_eager, NETWORKS, "fp32"), WORK, lambda: None) as worker:
        with pytest.raises(Failed, match=r"took more than 0\.01 s"):
            worker.load(0.01)
        worker.process.kill()


@pytest.mark.parametrize("undone", [None, *plain_unet.REWRITES])
def test_undoing_a_rewrite_keeps_the_prediction(loaded: Any, undone: str | None) -> None:
    """Each variant's prediction equals the product's."""
    contract = contracts(loaded.config, BUCKET, "float32")[DENOISING_UNET]
    inputs = consistent_inputs(loaded, contract, BUCKET.window)
    width = loaded.config.image_encoder.projection_dim
    variant = plain_unet.variant_contract(contract, width, undone)
    assert {spec.name: spec.shape for spec in variant.inputs} == {n: a.shape for n, a in inputs.items()}
    tensors = [torch.from_numpy(inputs[spec.name]) for spec in variant.inputs]
    with torch.no_grad():
        found = plain_unet.PlainUNet(loaded.denoising_unet, undone)(*tensors)
        from animate_rt.export.graphs import DenoisingUNetGraph

        count = len(contract.inputs)
        expected = DenoisingUNetGraph(loaded.denoising_unet)(*tensors[:count])
    assert found.shape == variant.outputs[0].shape
    result = guided(found.numpy()) if undone == plain_unet.GUIDANCE_INSIDE else found.numpy()
    assert np.abs(result - expected.numpy()).max() <= 2e-5 * np.abs(expected.numpy()).max()


def test_the_plain_reference_pass_and_decoder_equal_the_products(loaded: Any) -> None:
    contract = contracts(loaded.config, BUCKET, "float32")[REFERENCE_NET]
    torch.manual_seed(0)
    latents, embeds = (torch.randn(spec.shape) for spec in contract.inputs)
    with torch.no_grad():
        expected = ReferenceNetGraph(loaded.reference_net, loaded.denoising_unet)(latents, embeds)
        found = plain_unet.PlainReference(loaded)(latents, embeds)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-4)
        frame = VAEDecoderGraph(loaded.vae, rounded=True)(latents)
        assert np.array_equal(to_pixels(plain_unet.PlainDecoder(loaded.vae)(latents).numpy()), frame.numpy())


def test_a_bundle_in_another_precision_keeps_its_files(small_bundle: Path, tmp_path: Path) -> None:
    in_precision(small_bundle, tmp_path / "bf16", "bf16")
    before, after = open_bundle(small_bundle).manifest, open_bundle(tmp_path / "bf16").manifest
    shutil.rmtree(tmp_path / "bf16")  # onnx refuses files with several hard links, also in later tests
    assert after.precision == "bf16"
    assert after.files == before.files


def test_pictures_are_the_same_in_every_run() -> None:
    first, again, other = WORK.pictures(1), WORK.pictures(1), WORK.pictures(2)
    assert np.array_equal(first.reference, again.reference)
    assert first.reference.shape == (96, 64, 3)
    assert first.pose.shape == (3, 96, 64, 3)
    assert not np.array_equal(first.pose[0], first.pose[1])
    assert not np.array_equal(first.reference, other.reference)


def test_eager_pytorch_and_ours_side_by_side(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its own process, in turns. Their frames differ only by rounding to 8 bits."""
    from animate_rt.benchmarks import peers

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # PyTorch on as many threads as users have
    everyone = peers.public_peers
    monkeypatch.setattr(peers, "public_peers", lambda *given: everyone(*given)[:1])
    result = bench_peers(NETWORKS, [small_bundle], WORK, 2, 250, print)
    truth, ours = result.results["peers"]
    assert truth["failure"] is ours["failure"] is None
    assert truth["speedup"]["ratio"] == 1
    assert ours["speedup"]["ratio"] > 0  # how fast it is depends on what else runs here
    assert truth["accuracy"]["psnr_db"] > 58
    assert ours["accuracy"]["psnr_db"] > 58
    assert {name: len(seconds) for name, seconds in result.samples.items()} == {
        "eager PyTorch fp32": 2,
        "ours, openvino fp32": 2,
    }


@pytest.mark.slow
@pytest.mark.skipif(not computes_bf16(), reason="this CPU does not compute in bfloat16")
def test_eager_pytorch_in_bfloat16_alone(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One peer after another, and autocast."""
    from animate_rt.benchmarks import peers

    everyone = peers.public_peers
    monkeypatch.setattr(peers, "public_peers", lambda *given: everyone(*given)[0:3:2])
    result = bench_peers(NETWORKS, [small_bundle], WORK, 2, 250, print, alone=True)
    labels = [(peer["name"], peer["precision"]) for peer in result.results["peers"]]
    assert labels == [("eager PyTorch", "fp32"), ("eager PyTorch", "bf16"), ("ours, openvino", "fp32")]
    assert [peer["failure"] for peer in result.results["peers"]] == [None] * 3
    assert [len(seconds) for seconds in result.samples.values()] == [2, 2, 2]
    assert 30 < result.results["peers"][1]["accuracy"]["psnr_db"] < 58


def test_quick_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    """`--quick` needs no bundle and makes one clip with eager PyTorch."""
    options = [
        "--quick",
        "--rounds",
        "2",
        "--steps",
        "1",
        "--without",
        "torch.compile",
        "--without",
        "ONNX Runtime",
        "--without",
        "eager PyTorch",  # in half precision, where this CPU computes in it
    ]
    assert main(["bench", "peers", *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    truth, ours = found["results"]["peers"]
    assert (truth["name"], truth["clip_s"]["n"]) == ("eager PyTorch", 1)
    assert (ours["name"], ours["clip_s"]["n"]) == ("ours, PyTorch", 2)
    assert truth["failure"] is ours["failure"] is None
    assert ours["accuracy"]["psnr_db"] > 58
    assert found["engines"] == []
    assert found["workload"]["steps"] == 1


def test_drawn_weights_equal_those_of_a_written_checkpoint(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "tiny", "tiny")
    written, direct = load_checkpoint(tmp_path / "tiny"), drawn("tiny", torch.float32)
    assert written.config == direct.config
    for name in ("denoising_unet", "reference_net", "pose_guider", "vae", "image_encoder"):
        expected, found = (getattr(networks, name).state_dict() for networks in (written, direct))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.slow
def test_all_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers", "--rounds", "1", "--folder", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    peers = {(peer["name"], peer["precision"]): peer for peer in found["results"]["peers"]}
    assert not [peer["failure"] for peer in peers.values() if peer["failure"]]
    assert all(peer["accuracy"]["psnr_db"] > 58 for (_, p), peer in peers.items() if p == "fp32")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ablate", "--rounds", "1", "--folder", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["rows"]
    assert {row["name"] for row in rows} >= {*plain_unet.REWRITES, *PASSES, "reference cache", "streams"}
    assert not [row for row in rows if row["wrong"]]
    assert all(row["error"] == 0 for row in rows if not row["measure"].endswith("call"))


def test_sizes_fit_their_models(loaded: Any) -> None:
    for size in SIZES.values():
        overlap, window = size.workload.options.overlap, size.workload.bucket.window
        assert overlap is not None
        assert overlap < window <= size.workload.frames
    SIZES["small"].workload.bucket.check(loaded.config)
