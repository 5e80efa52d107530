"""A checkpoint brings data. It can't make transformers fetch or run code, nor lead it to another model, without
`trust_remote_code`: whatever its files say, nothing is imported, fetched or followed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.hub_fixtures import Hub, Ran, run_in_process
from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import make_pair, make_pilot
from transformers_copilot.pair.foreign_code import KERNEL_METHODS, refuse_kernel_method, refuse_kernels
from transformers_copilot.pair.provenance import with_fingerprint


# Whatever runs writes its name into a file. This one stands in for the package that fetches kernels.
KERNELS = '''
import os

class Anything:
    """Decorators give back what they are given, and all else is let pass."""
    def __init__(self, *args, **kwargs): pass
    def __call__(self, given=None, *args, **kwargs): return given

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything

def get_kernel(name, **kwargs):
    with open(os.environ["PROOF"], "a") as file:
        file.write(f"kernel {name}\\n")
    raise RuntimeError("fetched")
'''
CODE = """
import os

with open(os.environ["PROOF"], "a") as file:
    file.write(f"code {__name__}\\n")
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
generate = None
"""
PARENT = {"parent_library": "evil", "base_model_class": "Model"}
CODE_FILES = ("evil.py", "custom_generate/generate.py")
LORA = {"peft_type": "LORA", "target_modules": ["q_proj"]}
AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"}
ELSEWHERE = {name: f"nobody/code--{where}" for name, where in AUTO_MAP.items()}


def changed(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """What changes a JSON file of a checkpoint, as one could who wrote it: fingerprints fit, sums are left out."""

    def write(folder: Path) -> None:
        path = folder / file
        values = json.loads(path.read_text()) if path.exists() else {}
        for name in ("fingerprint", "fields_fingerprint", "checksums"):
            values.pop(name, None)
        change(values)
        text = json.dumps(values)
        path.write_text(with_fingerprint(text) if file == "config.json" else text)

    return write


def config(**values: Any) -> Callable[[Path], None]:
    """Fields of config.json; `pilot__name` is one of the Pilot's part."""

    def change(found: dict[str, Any]) -> None:
        for name, value in values.items():
            part, _, inner = name.partition("__")
            (found[part] if inner else found)[inner or part] = value

    return changed("config.json", change)


def adapter(**values: Any) -> Callable[[Path], None]:
    """Fields of the Pilot's adapter."""

    def write(folder: Path) -> None:
        changed("pilot_adapter/adapter_config.json", lambda found: found.update(values))(folder)
        config()(folder)

    return write


# What is wrong with a pair's folder, and what the error says; `None`: it loads as if nothing were there.
PAIRS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "attention": (config(attn_implementation="nobody/kernel"), "nobody/kernel"),
    "attention of a trusted owner": (config(attn_implementation="kernels-community/flash-attn2"), "flash-attn2"),
    "attention with a revision": (config(attn_implementation="nobody/kernel@main:run"), "nobody/kernel@main:run"),
    "attention by its inner name": (config(_attn_implementation="nobody/kernel"), "nobody/kernel"),
    "attention set past the property": (config(_attn_implementation_internal="nobody/kernel"), "nobody/kernel"),
    "attention of the Pilot": (config(pilot__attn_implementation="nobody/kernel"), "pilot.attn_implementation"),
    "attention of the Pilot, inner name": (config(pilot___attn_implementation="nobody/kernel"), "nobody/kernel"),
    "attention of the Copilot": (config(copilot__attn_implementation="nobody/kernel"), "copilot.attn_implementation"),
    "attention by part": (config(attn_implementation={"": "sdpa", "pilot": "nobody/kernel"}), "nobody/kernel"),
    "attention of no text": (config(attn_implementation=["nobody/kernel"]), "nobody/kernel"),
    "flash attention, a kernel where it is not installed": (
        config(attn_implementation="flash_attention_2"),
        "flash_attention_2",
    ),
    "experts": (config(pilot__experts_implementation="sonicmoe"), "pilot.experts_implementation"),
    "kernels asked for": (config(use_kernels=True, kernel_config={"LlamaRMSNorm": "nobody/kernel"}), None),
    "all kernels allowed": (config(allow_all_kernels=True, trust_remote_code=True), None),
    "code beside it": (config(auto_map=AUTO_MAP), None),
    "code elsewhere": (config(auto_map=ELSEWHERE), None),
    "the Pilot's code": (config(pilot__auto_map=AUTO_MAP), None),
    "the Pilot's code elsewhere": (config(pilot__auto_map=ELSEWHERE), None),
    "a Pilot of code alone": (config(pilot__auto_map=AUTO_MAP, pilot__model_type="evil"), "evil"),
    "the Copilot's code": (config(copilot__auto_map=AUTO_MAP), None),
    "a loop of its own": (
        changed(
            "generation_config.json",
            lambda found: found.update(custom_generate="nobody/code", trust_remote_code=True),
        ),
        None,
    ),
    "quantized by a kernel": (config(quantization_config={"quant_method": "mxfp4"}), "trust_remote_code=True"),
    "another place of the Pilot": (config(pilot___name_or_path="nobody/pilot", pilot__name_or_path="nobody/p"), None),
    "an adapter beside it": (
        changed("adapter_config.json", lambda found: found.update(base_model_name_or_path="elsewhere", **LORA)),
        "not followed",
    ),
    "an adapter's library": (adapter(megatron_config={"a": 1}, megatron_core="evil"), "megatron_config"),
    "an adapter's base": (adapter(base_model_name_or_path="nobody/base", auto_mapping=PARENT), None),
    "an adapter with a tokenizer": (
        adapter(
            peft_type="PROMPT_TUNING",
            task_type="CAUSAL_LM",
            num_virtual_tokens=2,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text="a",
            tokenizer_name_or_path="nobody/code",
            tokenizer_kwargs={"trust_remote_code": True},
        ),
        "PROMPT_TUNING",
    ),
}  # fmt: skip

LOAD = """
import os
from transformers import AutoConfig, AutoModelForCausalLM
from transformers_copilot import PilotCopilotForCausalLM

def ran():
    file = pathlib.Path(os.environ["PROOF"])
    found = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return found

def from_config(folder):
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))

def everything(folder):
    pair = AutoModelForCausalLM.from_pretrained(folder)
    pair.generate(max_new_tokens=2, do_sample=False)
    pair.save_pretrained("saved")
    pair.merge_adapters()
    pair.save_copilot("copilot")

ways, found = (from_config, PilotCopilotForCausalLM.from_pretrained, everything), {}
for folder in sorted(pathlib.Path("pairs").iterdir()):
    errors = [error_of(call, str(folder)) for call in ways]
    found[folder.name] = {"errors": errors, "ran": ran()}
joined = {}
for folder in sorted(pathlib.Path("copilots").iterdir()):
    errors = [error_of(PilotCopilotForCausalLM.from_copilot, str(folder))]
    joined[folder.name] = {"errors": errors, "ran": ran()}
plain = error_of(AutoModelForCausalLM.from_pretrained, "plain")
report(found=found, joined=joined, plain=plain, plain_ran=ran(), allowed=error_of(
    PilotCopilotForCausalLM.from_pretrained, "pairs/nothing wrong", attn_implementation="kernels-community/flash-attn2"
), allowed_ran=ran(), evil=[name for name in sys.modules if "evil" in name])
"""
# A Copilot's own checkpoint, and the Pilot that it names, by what is wrong with either.
COPILOTS = {
    "attention of the Copilot": "nobody/kernel",
    "attention of the Pilot": "nobody/kernel",
    "a quantized Pilot": "trust_remote_code=True",
    "code of the Pilot": "trust_remote_code",
    "a Pilot with an adapter": "not followed",
    "options that allow": None,
}


@pytest.fixture(scope="module")
def loaded(hub_server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Hub, Ran]:
    """Every checkpoint, loaded in every way in one process that has a package for kernels."""
    hub, home = Hub(hub_server, "foreign"), tmp_path_factory.mktemp("home")
    hub_server.requests.clear()
    from peft import LoraConfig
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    (home / "path" / "kernels").mkdir(parents=True)
    (home / "path" / "kernels" / "__init__.py").write_text(KERNELS)
    about = home / "path" / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n")
    pair = make_pair()
    pair.add_adapters(pilot=LoraConfig(r=2, target_modules=["q_proj"]))
    for name, (change, _) in {"nothing wrong": (lambda folder: None, None), **PAIRS}.items():
        folder = home / "pairs" / name
        pair.save_pretrained(folder)
        for file in CODE_FILES:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(CODE)
        change(folder)
    write_copilots(hub, home, pair)
    make_pilot().save_pretrained(home / "plain")
    config(attn_implementation="kernels-community/flash-attn2")(home / "plain")
    paths = os.pathsep.join([str(ROOT), str(home / "path"), str(home / "pairs" / "an adapter's library")])
    proof = str(home / "proof")
    return hub, run_in_process(LOAD, hub, home, HUB_USER=hub.user, PROOF=proof, PYTHONPATH=paths)


def write_copilots(hub: Hub, home: Path, pair: Any) -> None:
    make_pilot().save_pretrained(home / "pilot")
    plain = {file.name: file.read_bytes() for file in (home / "pilot").iterdir()}
    values = json.loads(plain["config.json"])
    base = {"peft_type": "LORA", "base_model_name_or_path": str(home / "plain")}
    of_pilots = {
        "attention of the Pilot": {"config.json": {**values, "attn_implementation": "nobody/kernel"}},
        "a quantized Pilot": {"config.json": {**values, "quantization_config": {"quant_method": "mxfp4"}}},
        "code of the Pilot": {"config.json": {**values, "model_type": "evil", "auto_map": AUTO_MAP}},
        "a Pilot with an adapter": {"adapter_config.json": base},
    }
    pair.merge_adapters()
    for name in COPILOTS:
        pilot, folder = hub.repo(name.replace(" ", "-")), home / "copilots" / name
        written = {file: json.dumps(text).encode() for file, text in of_pilots.get(name, {}).items()}
        hub.put(pilot, {**plain, **written, "evil.py": CODE.encode()})
        pair.save_copilot(folder, pilot=pilot)
        (folder / "evil.py").write_text(CODE)
        if name == "attention of the Copilot":
            config(attn_implementation="nobody/kernel", auto_map=AUTO_MAP)(folder)
        if name == "options that allow":
            changed("pairing.json", lambda found: found["options"].update(trust_remote_code=True, use_kernels=True))(
                folder
            )


def test_the_watch_sees_what_runs(loaded: tuple[Hub, Ran]):
    """What a user asks for is fetched, and so is what a plain model's file asks for: the other tests could fail."""
    _, ran = loaded
    assert ran.values["plain_ran"] == ["kernel kernels-community/flash-attn2"]
    assert ran.values["allowed_ran"] == ["kernel kernels-community/flash-attn2"] and "fetched" in ran.values["allowed"]


@pytest.mark.parametrize("name", ["nothing wrong", *PAIRS])
def test_a_pairs_files_run_fetch_and_follow_nothing(loaded: tuple[Hub, Ran], name: str):
    hub, ran = loaded
    found, message = ran.values["found"][name], PAIRS.get(name, (None, None))[1]
    assert found["ran"] == [] and ran.values["evil"] == []
    assert hub.requests("nobody/") == [], "nobody was asked for what the files name"
    _, direct, auto = found["errors"]
    if message is None:
        assert found["errors"] == [None, None, None]
    else:
        assert all(error.startswith("ValueError") and message in error for error in (direct, auto)), found["errors"]


@pytest.mark.parametrize("name", COPILOTS)
def test_a_copilot_and_the_pilot_that_it_names_run_fetch_and_follow_nothing(loaded: tuple[Hub, Ran], name: str):
    hub, ran = loaded
    found, message = ran.values["joined"][name], COPILOTS[name]
    assert found["ran"] == [] and not hub.requests(r"nobody/|\.py")
    (error,) = found["errors"]
    assert error is None if message is None else (error.startswith("ValueError") and message in error), error


# ---- the rules by themselves ----


def test_own_ways_to_attend_pass():
    for way in ("eager", "sdpa", "flex_attention", None, {"": "sdpa", "pilot": "eager"}, {}):
        refuse_kernels({"attn_implementation": way, "pilot": {"_attn_implementation": way}, "other": "a/b"})
    refuse_kernels({"experts_implementation": "grouped_mm", "_attn_implementation_autoset": True})
    refuse_kernel_method({"quantization_config": {"quant_method": "torchao"}})


def test_ways_to_store_weights_that_fetch_kernels_are_known():
    """A method of transformers' whose files fetch a kernel is on the list: a new one is noticed here."""
    import transformers
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    package = Path(transformers.__file__).parent
    fetching = set()
    for method, quantizer in AUTO_QUANTIZER_MAPPING.items():
        own = package / f"{quantizer.__module__.removeprefix('transformers.').replace('.', '/')}.py"
        names = [own, package / "integrations" / own.name.removeprefix("quantizer_"), package / "integrations" / method]
        files = [one for name in names for one in ([name] if name.is_file() else name.glob("*.py"))]
        if any(word in file.read_text() for file in files for word in ("get_kernel(", "lazy_load_kernel(")):
            fetching.add(method)
    assert fetching and fetching <= KERNEL_METHODS
