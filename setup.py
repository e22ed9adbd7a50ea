"""The repository root is the package `animate_rt`; all folders of its four areas are subpackages."""

from pathlib import Path

from setuptools import find_packages, setup

SUBPACKAGES = find_packages(include=["export*", "engines*", "runtime*", "benchmarks*"])

CPU = ["openvino>=2026.0"]
EXPORT = [
    "torch==2.13.*",
    "onnx>=1.18",
    "onnxscript>=0.7",
    "safetensors>=0.5",
    "pyyaml>=6",
    "nncf>=3.4",  # of precision int8
]
CUDA = ["cuda-core[cu13]>=1.2"]
VERIFY = ["polygraphy>=0.53", "onnxruntime>=1.22"]
FARM = ["ray>=2.59"]
MARKS = ["c2pa-python>=0.38"]
HEIC = ["pillow-heif>=0.22"]
SERVE = [
    "fastapi>=0.120",
    "fastapi-offline>=1.7",
    "uvicorn>=0.35",
    "python-multipart>=0.0.20",
    "prometheus-client>=0.20",
]
BENCH = [*CPU, *EXPORT, *VERIFY, "matplotlib>=3.9"]
DEV = [
    *BENCH,
    "cuda-core>=1.2",
    "cuda-bindings==13.*",
    "tensorrt-rtx==1.7.*",
    *FARM,
    *HEIC,
    *SERVE,
    "openai>=3",
    "httpx>=0.27",
    "schemathesis>=4",
    *MARKS,
    "openjd-cli>=0.8",
    "hypothesis>=6",
    "pytest>=8",
    "pytest-timeout>=2",
    "pytest-xdist>=3",
    "setuptools>=77",  # to build the wheel that a test looks into
    "ruff==0.17.5",
    "mypy==2.4.1",
    "types-pyyaml",
    "types-setuptools",
]

WEIGHTS = ["weights/*/*.*", "weights/*/*/*.*", "weights/*/*/*/*.*"]  # of the demo
PAGE = ["runtime/service/http/page/*.*"]  # of `animate-rt serve`
RECORDED = [  # the smallest size of `animate-rt bench`
    "tests/data/small/inference.yaml",
    "tests/data/small/reference.png",
    "tests/data/small/pose/*.png",
    "tests/data/small/checkpoint/**/*.*",
]

setup(
    name="animate-rt",
    version="0.1.0",
    description="The optimized inference runtime for Animate Anyone",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    script_name="setup.py",  # so that it is told apart from the package's modules, and left out
    package_dir={"animate_rt": "."},
    packages=["animate_rt", *(f"animate_rt.{name}" for name in SUBPACKAGES)],
    package_data={"animate_rt": ["py.typed", *WEIGHTS, *PAGE, *RECORDED]},
    install_requires=["numpy>=2", "av>=15,<20", "pillow>=11"],
    extras_require={
        "cpu": CPU,
        "export": EXPORT,
        "tensorrt": ["tensorrt>=10.12", *CUDA],
        "tensorrt-rtx": ["tensorrt-rtx>=1.7", *CUDA],
        "verify": VERIFY,
        "farm": FARM,
        "heic": HEIC,
        "serve": SERVE,
        "marks": MARKS,
        "bench": BENCH,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["animate-rt = animate_rt.__main__:main"]},
)
