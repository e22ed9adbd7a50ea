"""The ONNX files of a bundle: contract, shared weights, no unused weights, no paths of the build machine."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from animate_rt.engines.bundle import open_bundle
from animate_rt.engines.contract import Contract
from animate_rt.export.onnx_graphs import OPSET
from animate_rt.export.weight_file import WEIGHTS

GRAPHS = (
    "image_encoder",
    "vae_encoder",
    "reference_net",
    "pose_guider",
    "time_embedding",
    "denoising_unet",
    "denoising_unet_conditional",
    "vae_decoder",
)


@pytest.fixture(scope="module")
def models(bundle: Path) -> dict[str, onnx.ModelProto]:
    return {name: onnx.load(bundle / f"graphs/{name}.onnx", load_external_data=False) for name in GRAPHS}


@pytest.fixture(scope="module")
def contracts(bundle: Path) -> dict[str, Contract]:
    return open_bundle(bundle).manifest.graphs


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_valid_and_keep_their_contract(
    bundle: Path, models: Any, contracts: dict[str, Contract], name: str
) -> None:
    onnx.checker.check_model(bundle / f"graphs/{name}.onnx", full_check=True)
    model = models[name]
    assert {i.domain: i.version for i in model.opset_import}[""] == OPSET
    for values, specs in (
        (model.graph.input, contracts[name].inputs),
        (model.graph.output, contracts[name].outputs),
    ):
        found = [
            (
                value.name,
                np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
                tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            )
            for value in values
        ]
        assert found == [(spec.name, np.dtype(spec.dtype), spec.shape) for spec in specs]


def external(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Weight name -> offset and length in the shared file."""
    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == WEIGHTS
            found[tensor.name] = int(entries["offset"]), int(entries["length"])
    return found


def test_both_variants_of_the_unet_share_their_weights(models: Any) -> None:
    guided, conditional = (
        set(external(models[name]).values()) for name in ("denoising_unet", "denoising_unet_conditional")
    )
    assert conditional
    # Only the guided variant has cross-attention biases for the unconditional half. Small weights are not
    # in the shared file.
    assert conditional <= guided


def test_the_weight_file_holds_each_weight_once(bundle: Path, models: Any) -> None:
    """The weights of the ONNX files and the constants of OpenVINO's graphs, most of which are the same."""
    spans = {span for model in models.values() for span in external(model).values()}
    assert spans
    saved = {span for path in (bundle / "engines").glob("*.xml") for span in constants(path)}
    assert len(spans & saved) > 0.9 * len(spans)
    both = sorted(spans | saved)
    assert all(a + length <= b for (a, length), (b, _) in pairwise(both))
    last, length = both[-1]
    assert (bundle / "graphs" / WEIGHTS).stat().st_size == last + length


def constants(path: Path) -> set[tuple[int, int]]:
    """Offset and length of every constant of a graph in OpenVINO's format."""
    data = ElementTree.parse(path).findall("layers/layer[@type='Const']/data")
    return {(int(each.attrib["offset"]), int(each.attrib["size"])) for each in data}


def test_weights_without_effect_are_not_exported(models: Any) -> None:
    """Queries and keys of attention to one token, and ReferenceNet after the input of its last attention."""
    unet = {tensor.name for tensor in models["denoising_unet"].graph.initializer}
    assert unet
    assert not [
        name
        for name in unet
        if "attn2.to_q" in name
        or "attn2.to_k" in name
        or (".norm2." in name and "transformer_blocks" in name)
    ]
    reference = [tensor.name for tensor in models["reference_net"].graph.initializer]
    last = "reference_net.up_blocks.3.attentions.{}.".format(
        max(int(name.split(".")[4]) for name in reference if "up_blocks.3.attentions" in name)
    )
    assert any(name.startswith(f"{last}proj_in") for name in reference)
    assert not [
        name for name in reference if name.startswith((f"{last}transformer_blocks.0.ff", f"{last}proj_out"))
    ]


def test_graphs_hold_no_paths_of_the_build_machine(bundle: Path) -> None:
    package = str(Path(onnx.__file__).parents[1]).encode()
    for path in bundle.rglob("*.onnx"):
        content = path.read_bytes()
        assert package not in content
        assert b".py" not in content
