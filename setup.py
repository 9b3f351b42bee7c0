"""Packages, extras and the console script of beamclip; also what `--setup_file ./setup.py` ships to workers."""

from pathlib import Path

from setuptools import setup

PACKAGES = [
    "schemas",
    "clip_transforms",
    "clip_transforms.encoders",
    "clip_transforms.engine",
    "clip_transforms.evaluation",
    "clip_transforms.pairs",
    "clip_transforms.plugins",
    "clip_transforms.prompts",
    "clip_transforms.refining",
    "clip_transforms.review",
    "clip_transforms.review.exporters",
    "clip_transforms.review.importers",
    "clip_transforms.sources",
    "clip_transforms.training",
    "clip_transforms.transforms",
    "pipelines",
]

EXTRAS = {
    "gcs": ["gcsfs>=2024.2"],
    "s3": ["s3fs>=2024.2"],
    "hf": ["transformers>=4.40", "huggingface_hub>=0.24"],
    "dataflow": ["apache-beam[gcp]>=2.62,<3", "gcsfs>=2024.2"],
    "http": ["aiohttp>=3.9"],
    "filter": ["py3langid>=0.4"],
    "faiss": ["faiss-cpu>=1.7"],
    "evaluate": ["scikit-learn>=1.3", "scipy>=1.10"],
    "review": ["cleanlab>=2.6", "scikit-learn>=1.3", "scipy>=1.10"],
    "yaml": ["apache-beam[yaml]>=2.62,<3"],
    "test": [
        "apache-beam[gcp,yaml]>=2.62,<3",
        "aiohttp>=3.9",
        "build>=1.2",
        "cleanlab>=2.6",
        "faiss-cpu>=1.7",
        "gcsfs>=2024.2",
        "mypy>=1.11",
        "psutil>=5.9",
        "py3langid>=0.4",
        "pytest>=8",
        "ruff>=0.6",
        "scikit-learn>=1.3",
        "scipy>=1.10",
        "s3fs>=2024.2",
        "setuptools>=68",
        "transformers>=4.40",
        "types-PyYAML",
    ],
}

HERE = Path(__file__).parent
README = HERE / "README.md"

setup(
    name="beamclip",
    version="0.1.0",
    description="An Apache Beam plugin that labels images with CLIP and no training data",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.10,<3.14",
    packages=PACKAGES,
    package_data={
        "clip_transforms": ["prompt_sets/*", "prompt_sets/*/*", "samples/*", "samples/*/*", "py.typed"],
        "clip_transforms.encoders": ["beamclip_tiny/*", "parameters.json"],
        "clip_transforms.pairs": ["rule_sets/*"],
        "clip_transforms.review": ["templates/*"],
    },
    install_requires=[
        "apache-beam>=2.62,<3",
        "filelock>=3.12",
        "fsspec>=2024.2",
        "jinja2>=3.1",
        "numpy>=1.24",
        "open_clip_torch>=3.0,<4",
        "pillow>=10.3",
        "platformdirs>=4",
        "pyarrow>=14",
        "pyyaml>=6",
        "rich>=13",
        "safetensors>=0.4",
        "tenacity>=8.2",
        "torch>=2.2",
        "torchvision>=0.17",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["beamclip=pipelines.cli:main"]},
    license="Apache-2.0",
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
