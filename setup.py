"""Packaging: which versions of what. The tools' settings are in pyproject.toml, the newest tested versions in
constraints.txt; the oldest are the floors below, read by `.ci/versions.py`."""

from pathlib import Path
from runpy import run_path


README = Path(__file__).parent / "README.md"
VERSION = run_path(str(Path(__file__).parent / "transformers_copilot" / "pair" / "version.py"))["__version__"]

# Everything that the package imports. A floor is the oldest release that is tested, and `make test-oldest` runs with
# exactly the floors; a cap is the first release that nobody has tried: the next major one, or the next minor one where
# a project is below 1 or changes interfaces in minor releases.
REQUIREMENTS = [
    # The pair extends interfaces that minor releases of transformers change (5.24 renamed every model's cache): Cache
    # (`crop` with a non-positive count, `get_max_length`), forward hooks on decoder layers, `initialization`,
    # `SubConfigSpec`, the generation loop. Both releases of the range are tested; a new one has to be looked at first.
    "transformers>=5.23,<5.25",
    # transformers asks for 2.6, which is what `make test-oldest` runs with; 2.13 is what all tests run with; those of
    # `make test-oldest` were run with 2.14.1 by hand, with the same results.
    "torch>=2.6,<2.15",
    "safetensors>=0.8,<0.9",  # 0.8, huggingface_hub 1.31 and tokenizers 0.23.1 are transformers 5.23's own floors
    "huggingface_hub>=1.31,<3",
    "tokenizers>=0.23.1,<0.24",
    "accelerate>=1.10,<2",  # the Trainer's
    "datasets>=4.7,<6",
    "evaluate>=0.4.6,<0.5",
    # Adapters; a Pilot may be a PeftModel. transformers 5.24's own `add_adapter` asks for 0.22, which is not out: a
    # pair puts adapters in through PEFT itself, and is tested with 0.21 in both releases of transformers.
    "peft>=0.21,<0.22",
    "jinja2>=3.1.6,<4",  # cards and reports from templates; transformers asks for 3.1.6 where it fills a chat template
    "filelock>=3.16,<5",  # one run owns its folder; huggingface_hub brings it and may ask for an older one
    "fsspec>=2024.6,<2027",  # compressed files of data; datasets brings it and may ask for an older one
    "numpy>=2.0,<3",
    "packaging>=23.0",  # named by the year: no release of it is a major one
    "pandas>=2.2.2,<4",  # the first for numpy 2
    "psutil>=5.9,<8",  # how much memory is free; accelerate brings it and asks for no version
    "pyarrow>=21.0,<27",  # datasets 4.7's own floor
    "pyyaml>=6.0.1,<7",
    "tqdm>=4.66.3,<5",  # datasets 4.7's own floor
]

MATPLOTLIB = "matplotlib>=3.10,<4"
LM_EVAL = "lm_eval>=0.4.13,<0.5"  # lm-evaluation-harness: 0.4.13 is the first tested with transformers 5.23
# `transformers-copilot serve`: what transformers' own `serving` extra asks for, which is one openai too old; and typer,
# which transformers brings, for its command line.
SERVING = ["fastapi>=0.115,<1", "openai>=1.99.1,<4", "pydantic>=2.7,<3", "typer>=0.29,<0.30", "uvicorn>=0.30,<1"]
EXTRAS = {
    # A Pilot in 8 or 4 bits on a CPU, through transformers: 0.18 is the first tested with torch 2.13, and it was tried
    # with no older torch. On a GPU bitsandbytes does as well.
    "quantization": ["torchao>=0.18,<0.19"],
    "report": [MATPLOTLIB],  # `transformers-copilot report`
    "lm_eval": [LM_EVAL],
    "serving": SERVING,
    # The site of `make docs`. Material for MkDocs is kept up until May 2027; its makers' successor reads the same file.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings>=1.0,<2", "mkdocstrings-python>=2.0,<3"],
    "dev": [
        MATPLOTLIB,
        LM_EVAL,
        *SERVING,
        "coverage>=7.13,<8",  # 7.13 is the first that installs what measures the processes that a test starts
        "mypy>=2.4,<3",
        "pytest>=9,<10",
        "pytest-xdist>=3.8,<4",
        "ruff>=0.17,<0.18",  # the formatter's style changes with minor releases
        "scikit-learn>=1.7,<2",  # metrics are checked against it
        "scipy>=1.14,<2",  # intervals of the experiments
        "selenium>=4.30,<5",  # the report is opened in Chromium, where there is one
        "tensorboard>=2.19,<3",  # live logging is tested on it
        "trl>=1.10,<2",  # CopilotTrainerMixin is tested on SFTTrainer
    ],
}


if __name__ == "__main__":  # not where only the lists above are read
    from setuptools import setup

    setup(
        name="transformers_copilot",
        version=VERSION,
        description="Pair a language model with a small Copilot that learns from its mistakes and corrects it",
        long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        license_files=["LICENSE"],
        keywords="transformers fine-tuning generation error-correction pytorch",
        packages=[
            "transformers_copilot",
            "transformers_copilot.adapters",
            "transformers_copilot.building",
            "transformers_copilot.commands",
            "transformers_copilot.data",
            "transformers_copilot.hub",
            "transformers_copilot.metrics",
            "transformers_copilot.mistake_log",
            "transformers_copilot.model_cards",
            "transformers_copilot.pair",
            "transformers_copilot.report",
            "transformers_copilot.tasks",
            "transformers_copilot.training",
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
