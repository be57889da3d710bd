"""What may be written where a model is wanted, and what each name comes to."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from thinkling.apps.models import facts_of
from thinkling.core.errors import ModelError
from thinkling.core.files import seal
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.model import names
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.model.folder import save_folder
from thinkling.model.names import resolve
from thinkling.tokenizer.pretokenizers import KNOWN, build_byte_level_bpe
from thinkling.tokenizer.tokenizer import Tokenizer

TINY = ModelConfig(
    family="llama",
    vocab_size=300,
    width=8,
    n_layers=1,
    n_heads=2,
    n_kv_heads=1,
    head_width=4,
    ffn_width=8,
    max_positions=32,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small good model folder to copy from."""
    from tokenizers import pre_tokenizers

    folder = tmp_path_factory.mktemp("made")
    letters = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    build_byte_level_bpe(letters, [3] + [1] * 256, [], KNOWN["gpt-2"]).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    save_folder(Decoder(TINY), Tokenizer.load(folder), folder / "model")
    return folder / "model"


def put(made: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def make_run(made: Path, folder: Path, steps: list[int]) -> Run:
    run = Run.start(folder, {"stage": "sft"})
    run.close()
    for step in steps:
        put(made, run.checkpoint_dir(step) / "model")
        seal(run.checkpoint_dir(step))
    return run


def test_a_model_folder_is_itself(made):
    assert resolve(str(made)) == made


def test_a_run_is_its_newest_checkpoint(made, tmp_path):
    run = make_run(made, tmp_path / "run", [2, 10, 9])
    assert resolve(str(run.path)) == run.checkpoint_dir(10) / "model"


def test_one_checkpoint_of_a_run_is_its_model(made, tmp_path):
    run = make_run(made, tmp_path / "run", [2, 10])
    assert resolve(str(run.checkpoint_dir(2))) == run.checkpoint_dir(2) / "model"


def flip_a_bit(file: Path) -> None:
    """Near the end, where only weights are: every header and length stays right."""
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip_a_bit, cut_short, Path.unlink])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_says_so(made, tmp_path, harm):
    run = make_run(made, tmp_path / "run", [1, 2])
    harm(run.checkpoint_dir(2) / "model" / "model.safetensors")
    progress = Silent()
    assert resolve(str(run.path), progress) == run.checkpoint_dir(1) / "model"
    assert "step-2" in progress.notes[0]
    assert "damaged (model/model.safetensors is" in progress.notes[0]


def test_a_damaged_checkpoint_named_itself_is_refused(made, tmp_path):
    run = make_run(made, tmp_path / "run", [1, 2])
    flip_a_bit(run.checkpoint_dir(2) / "model" / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors is not what was written") as error:
        resolve(str(run.checkpoint_dir(2)))
    assert "name the run" in error.value.fix


def test_a_model_is_good_whose_optimizer_is_damaged(made, tmp_path):
    run = make_run(made, tmp_path / "run", [1])
    (run.checkpoint_dir(1) / "optimizer").mkdir()
    (run.checkpoint_dir(1) / "optimizer/first.safetensors").write_bytes(b"moments")
    seal(run.checkpoint_dir(1))
    (run.checkpoint_dir(1) / "optimizer/first.safetensors").write_bytes(b"Moments")
    assert resolve(str(run.path)) == run.checkpoint_dir(1) / "model"


def test_a_run_of_only_damaged_checkpoints_is_an_error(made, tmp_path):
    run = make_run(made, tmp_path / "run", [1])
    (run.checkpoint_dir(1) / "model" / "config.json").unlink()
    with pytest.raises(ModelError, match="no good checkpoint"):
        resolve(str(run.path))


def test_a_recipe_run_with_one_trained_stage_is_that_stages_model(made, tmp_path):
    run = make_run(made, tmp_path / "recipe" / "teach", [3])
    (tmp_path / "recipe" / "evaluate").mkdir()
    assert resolve(str(tmp_path / "recipe")) == run.checkpoint_dir(3) / "model"


def test_a_recipe_run_with_several_trained_stages_asks_which(made, tmp_path):
    make_run(made, tmp_path / "recipe" / "one", [1])
    make_run(made, tmp_path / "recipe" / "two", [1])
    with pytest.raises(ModelError, match="several models") as error:
        resolve(str(tmp_path / "recipe"))
    assert str(tmp_path / "recipe" / "two") in error.value.fix


def test_a_gguf_file_is_unpacked_once_and_again_when_it_changed(tmp_path, monkeypatch):
    calls: list[Path] = []

    def convert(path: Path, folder: Path, **_: object) -> None:
        calls.append(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / name).touch()

    monkeypatch.setattr("thinkling.model.gguf.convert", convert)
    monkeypatch.setenv("THINKLING_HOME", str(tmp_path / "home"))
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    first = resolve(str(file))
    assert first.is_relative_to(tmp_path / "home")
    assert resolve(str(file)) == first
    assert len(calls) == 1
    file.write_bytes(b"GGUF, another")
    assert resolve(str(file)) != first
    assert len(calls) == 2
    (first.parent / resolve(str(file)).name / "model.safetensors").unlink()  # as the error of a damaged one says to do
    resolve(str(file))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("a.bin", "is a pickle"),
        ("a.ckpt", "is a pickle"),
        ("model.safetensors", "one file of a model"),
        ("a.txt", "is no model"),
    ],
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path, file, words):
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(ModelError, match=words):
        resolve(str(tmp_path / file))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        resolve(str(tmp_path))


def test_a_mistyped_alias_is_answered_with_the_closest():
    with pytest.raises(ModelError) as error:
        resolve("smollm-135m")
    assert error.value.fix == "did you mean 'smollm2-135m'?"


@pytest.mark.parametrize("name", ["./missing", "missing/", "/missing/too", "a/b/c", "", "~/missing", "a" * 300])
def test_a_path_that_is_not_there_is_never_taken_for_a_hub_id(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(ModelError):
        resolve(name)


# hubs ----------------------------------------------------------------------------------------------------------------


def test_a_hub_id_is_fetched_from_the_mirror_without_pickles_and_programs(made, monkeypatch, tmp_path):
    asked: dict[str, object] = {}

    def download(name: str, **settings: object) -> str:
        asked.update(settings, name=name)
        return str(made)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("org/name") == made
    assert (asked["name"], asked["endpoint"]) == ("org/name", "https://mirror")
    wanted = huggingface_hub.utils.filter_repo_objects(
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "chat_template.jinja",
            "pytorch_model.bin",
            "modeling_name.py",
            "original/model.safetensors",
            "consolidated.safetensors",
            "weights.pt",
        ],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(wanted) == ["config.json", "model-00001-of-00002.safetensors", "chat_template.jinja"]


def test_a_hub_that_is_not_reached_is_a_clear_error(monkeypatch, tmp_path):
    def download(name: str, **_: object) -> str:
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match="was not reached for 'org/name'") as error:
        resolve("org/name")
    assert "HF_ENDPOINT" in error.value.fix
    assert "smollm2-135m" in error.value.fix


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.RemoteProtocolError("peer closed connection"), "was not reached for 'org/name': peer closed"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left to fetch 'org/name'"),
        (HFValidationError("Repo id must be"), "is no hub id: Repo id must be"),
    ],
)
def test_a_hub_download_that_dies_is_told_for_what_it_died_of(monkeypatch, tmp_path, error, words):
    def download(name: str, **_: object) -> str:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=words):
        resolve("org/name")


def test_whether_an_impossible_hub_id_is_at_hand_is_left_to_the_error_of_resolving_it():
    assert names.at_hand("org/a--b")


def test_a_hub_model_of_pickles_alone_is_refused(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match="no safetensors weights"):
        resolve("org/name")


def test_a_modelscope_id_needs_its_library_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError) as error:
        resolve("modelscope:org/name")
    assert error.value.fix == "pip install modelscope"


def test_a_modelscope_id_goes_to_modelscope_with_the_same_restrictions(made, monkeypatch):
    asked: dict[str, object] = {}

    def download(name: str, **settings: object) -> str:
        asked.update(settings, name=name)
        return str(made)

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=download))
    assert resolve("modelscope:org/name") == made
    assert asked == {"name": "org/name", "allow_patterns": names.WANTED, "ignore_patterns": names.UNWANTED}


# what is shown --------------------------------------------------------------------------------------------------------


def test_listing_models_loads_no_torch():
    program = (
        "import sys; from thinkling.apps import models; models.list_models(); assert 'torch' not in sys.modules; "
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m" in done.stdout


def test_the_facts_of_a_folder_are_those_of_its_files(made):
    facts = facts_of(made)
    assert facts["family"] == "llama"
    assert facts["tokens"] == "257"
    assert facts["ends with"] == "<end>"
    assert facts["weights"].endswith("float32")
    assert facts["chat template"].startswith("none")
