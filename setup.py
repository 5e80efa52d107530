"""Packaging. The tools' settings are in pyproject.toml, the tested versions in constraints.txt."""

from pathlib import Path
from runpy import run_path

from setuptools import setup


README = Path(__file__).parent / "README.md"
VERSION = run_path(str(Path(__file__).parent / "transformers_copilot" / "version.py"))["__version__"]

REQUIREMENTS = [
    # The pair extends interfaces that minor releases of transformers change: Cache (`crop` with a non-positive count,
    # `get_max_length`), forward hooks on decoder layers, `initialization`, `SubConfigSpec`, the generation loop.
    # 5.23 is the release that they were read and tested in; a new major release has to be looked at first.
    "transformers>=5.23,<6",
    "torch>=2.6",
    "safetensors>=0.8",  # the floors of these are what transformers 5.23 itself asks for, or the first tested
    "huggingface_hub>=1.31,<3",
    "datasets>=4.7,<6",
    "evaluate>=0.4.6,<0.5",
    "accelerate>=1.10,<2",
]

LM_EVAL = "lm_eval>=0.4.13,<0.5"  # lm-evaluation-harness: 0.4.13 is the first tested with transformers 5.23
EXTRAS = {
    "peft": ["peft>=0.21,<1"],  # LoRA on the Pilot: 0.21 is the first tested with transformers 5.23
    # A Pilot in 8 or 4 bits on a CPU: 0.18 is the first tested with torch 2.13. On a GPU bitsandbytes does as well.
    "quantization": ["torchao>=0.18,<1"],
    "report": ["jinja2>=3.1", "matplotlib>=3.10,<4"],  # `transformers-copilot report`
    "lm_eval": [LM_EVAL],
    "dev": [
        "jinja2>=3.1",  # model cards and reports from templates
        "matplotlib>=3.10,<4",
        LM_EVAL,
        "mypy>=2.4,<3",
        "pytest>=9,<10",
        "pytest-xdist>=3.8,<4",
        "ruff>=0.17,<0.18",  # the formatter's style changes with minor releases
        "scikit-learn>=1.7,<2",  # metrics are checked against it
        "selenium>=4.30,<5",  # the report is opened in Chromium, where there is one
        "tensorboard>=2.19,<3",  # live logging is tested on it
        "trl>=1.10,<2",  # CopilotTrainerMixin is tested on SFTTrainer
    ],
}

setup(
    name="transformers_copilot",
    version=VERSION,
    description="Pair a language model with a small Copilot that learns from its mistakes and corrects it as it goes",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="transformers fine-tuning generation error-correction pytorch",
    packages=[
        "transformers_copilot",
        "transformers_copilot.commands",
        "transformers_copilot.metrics",
        "transformers_copilot.report",
        "transformers_copilot.tasks",
        "transformers_copilot.model_cards",
    ],
    package_dir={"transformers_copilot.model_cards": "model_cards"},  # the template of cards
    package_data={
        "transformers_copilot": ["py.typed"],
        "transformers_copilot.report": ["templates/*"],
        "transformers_copilot.model_cards": ["README_TEMPLATE.md"],
    },
    entry_points={"console_scripts": ["transformers-copilot=transformers_copilot.commands.main:main"]},
    python_requires=">=3.11",  # as transformers 5.23
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
