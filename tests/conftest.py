"""What many tests share: a two-layer model and a tokenizer of bytes. No network, no accelerator."""

from __future__ import annotations

import os
from pathlib import Path

# Two threads meet at a barrier after every one of a tiny model's tiny products: one thread is several times as fast.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from byte_tokenizer import write_byte_tokenizer
from hypothesis import HealthCheck, settings

# A busy machine stops any process for longer than hypothesis' 200 ms an example: time is tested by the tests of time.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path):
    from thinkling.tokenizer.tokenizer import Tokenizer

    return Tokenizer.load(tokenizer_dir)


@pytest.fixture
def tiny_config():
    from thinkling.model.config import ModelConfig

    return ModelConfig(
        family="llama",
        vocab_size=272,
        width=48,
        n_layers=2,
        n_heads=6,
        n_kv_heads=2,
        head_width=8,
        ffn_width=80,
        max_positions=512,
    )


@pytest.fixture
def tiny_model(tiny_config):
    import torch

    from thinkling.model.decoder import Decoder

    torch.manual_seed(0)
    model = Decoder(tiny_config)
    for parameter in model.parameters():
        # Larger than usual, so that attention is far from uniform and an error in it shows.
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1)
    return model


@pytest.fixture
def tiny_model_dir(tiny_model, tokenizer, tmp_path) -> Path:
    """The two-layer model as a Hugging Face folder."""
    from thinkling.model.folder import save_folder

    folder = tmp_path / "tiny"
    save_folder(tiny_model, tokenizer, folder)
    return folder
