"""Recipes: those that are shipped, and what is wrong with bad ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from build_engines import flags, memory
from build_engines.gpus import GPUS
from build_engines.load import find, load, shipped
from build_engines.plan import ROLES, Layout, as_plain, make_plan, recipe_shapes
from build_engines.recipe import GpuSection, ModelSection, Recipe
from wanspec.config.problems import InvalidConfigError
from wanspec.errors import ConfigError

BILLIONS = {
    "llama-3.1-8b-3.2-1b": (8.03, 1.24),
    "llama-3.3-70b-3.2-1b-tp4": (70.6, 1.24),
    "llama-3.3-70b-3.2-1b-tp8": (70.6, 1.24),
    "qwen2.5-72b-1.5b": (72.7, 1.54),
    "qwen2.5-7b-0.5b": (7.62, 0.49),
}
"""Parameters as the models' authors state them."""


def plan_of(recipe: Recipe):
    return make_plan(recipe, Layout(Path("/engines")), recipe_shapes(recipe))


def options(argv: tuple[str, ...]) -> dict[str, str]:
    return {flag.partition("=")[0][2:]: flag.partition("=")[2] for flag in argv if flag.startswith("--")}


def test_all_pairs_of_the_issue_are_there():
    assert set(shipped()) == BILLIONS.keys()


@pytest.mark.parametrize("name", list(BILLIONS))
def test_every_flag_of_a_shipped_recipe_is_in_the_list(name):
    plan = plan_of(load(find(name)))
    assert [step.name for step in plan.steps if step.argv] == [
        f"{role}.{what}" for role in ROLES for what in ("checkpoint", "engine")
    ]
    for step in (step for step in plan.steps if step.argv):
        program = step.argv[0] if step.name.endswith("engine") else step.argv[1]
        tool = {"trtllm-build": "trtllm-build", "quantize.py": "quantize"}.get(Path(program).name)
        tool = tool or Path(program).parent.name
        assert flags.FLAGS[tool]
        given = [word for word in step.argv if word.startswith("--")]
        assert len(given) >= len(step.argv) - 2
        flags.check_flags(tool, given)


@pytest.mark.parametrize("name", list(BILLIONS))
def test_the_roles_flags(name):
    recipe = load(find(name))
    engines = {step.name: options(step.argv) for step in plan_of(recipe).steps}
    target, draft = engines["target.engine"], engines["draft.engine"]
    assert target["speculative_decoding_mode"] == "draft_tokens_external"
    assert target["max_draft_len"] == str(recipe.max_draft_len)
    assert draft.keys().isdisjoint({"speculative_decoding_mode", "max_draft_len"})
    for each, drafts in ((target, recipe.max_draft_len), (draft, 0)):
        assert each["use_paged_context_fmha"] == "enable"
        assert each["kv_cache_type"] == "paged"
        assert each["logits_dtype"] == "float32"
        assert each["input_timing_cache"] == each["output_timing_cache"] == "/engines/timing.cache"
        # Every round's prompt is the whole prefix.
        assert int(each["max_input_len"]) == int(each["max_seq_len"]) == recipe.context + drafts
        assert int(each["max_num_tokens"]) >= int(each["max_input_len"])
    assert int(draft["tokens_per_block"]) < int(target["tokens_per_block"])
    assert engines["target.checkpoint"]["tp_size"] == str(recipe.target.tensor_parallel) == target["workers"]
    assert "tp4" not in name or recipe.target.tensor_parallel == 4
    assert "tp8" not in name or recipe.target.tensor_parallel == 8


@pytest.mark.parametrize("name", list(BILLIONS))
def test_shapes_have_the_number_of_parameters_that_is_stated(name):
    shapes = recipe_shapes(load(find(name)))
    for role, stated in zip(ROLES, BILLIONS[name], strict=True):
        assert memory.parameters(shapes[role]) / 1e9 == pytest.approx(stated, rel=0.01)


def test_qwens_vocabularies_are_padded_to_different_widths():
    shapes = recipe_shapes(load(find("qwen2.5-7b-0.5b")))
    assert (shapes["target"].vocab_size, shapes["draft"].vocab_size) == (152_064, 151_936)
    plan = plan_of(load(find("qwen2.5-7b-0.5b")))
    assert plan.engines.target.padded_vocab_size == 152_064


@pytest.mark.parametrize("quantization", ["none", "fp8", "int8_sq", "int8_wo", "int4_awq", "w4a8_awq"])
def test_every_format_has_a_command(quantization, recipe_file):
    text = recipe_file.read_text().replace("quantization: fp8\n  kv_cache: fp8", f"quantization: {quantization}")
    recipe_file.write_text(text)
    recipe = load(recipe_file)
    from build_engines.pair import read_shape

    shapes = {role: read_shape(Path(recipe.section(role).model)) for role in ROLES}
    step = next(
        step for step in make_plan(recipe, Layout(Path("/e")), shapes).steps if step.name == "target.checkpoint"
    )
    given = options(step.argv)
    if quantization == "none":
        assert step.argv[1].endswith("llama/convert_checkpoint.py")
        assert "use_weight_only" not in given
    elif quantization == "int8_wo":
        assert given["weight_only_precision"] == "int8"
        assert "--use_weight_only" in step.argv
    else:
        assert step.argv[1].endswith("quantization/quantize.py")
        assert given["qformat"] == quantization
    assert ("awq_block_size" in given) == ("awq" in quantization)


@pytest.mark.parametrize(
    ("tool", "flag", "words"),
    [
        ("trtllm-build", "--model_dir=x", "no flag of it in TensorRT-LLM 1.2"),
        ("trtllm-build", "--gather_generation_logits", "no flag"),
        ("trtllm-build", "--kv_cache_type=pagd", "not one of continuous, paged, disabled"),
        ("trtllm-build", "--max_draft_len", "needs a value"),
        ("trtllm-build", "--strip_plan=1", "takes no value"),
        ("llama", "--qformat=fp8", "no flag"),
        ("quantize", "--qformat=fp4", "not one of"),
    ],
)
def test_flags_that_a_tool_does_not_take_fail(tool, flag, words):
    with pytest.raises(ConfigError, match=words):
        flags.check_flags(tool, [flag])


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("context: 512", "contexts: 512", "contexts: is not a field of a recipe; did you mean context?"),
        (
            "  tokens_per_block: 16",
            "  tokens_per_blok: 16",
            "16:3: draft.tokens_per_blok: is not a field of a recipe; did",
        ),
        (
            "max_draft_len: 4",
            "max_draft_len: 0",
            "4:1: max_draft_len: Input should be greater than or equal to 1, not '0'",
        ),
        ("tokens_per_block: 16", "tokens_per_block: 24", "16:3: draft.tokens_per_block: 24 is not a power of 2"),
        ("name: H100-80GB", "name: H100", "2:7: gpu.name: 'H100' is not one of A10G-24GB, A100-40GB"),
        ("name: H100-80GB", "name: A100-80GB", "target.quantization: A100-80GB has no FP8"),
        ("count: 2", "count: 1", "target.tensor_parallel: 2 GPUs are above gpu.count 1"),
        ("quantization: fp8", "quantization: int4_awq", "target.kv_cache: fp8 goes with quantization: fp8 only"),
        ("family: llama", "family: lama", "target.family: Input should be 'llama' or 'qwen'"),
        ("  max_batch_size: 2\ndraft", "  max_num_tokens: 100\ndraft", "target.max_num_tokens: 100 does not hold one"),
        ("context: 512", "context: '512'", "3:1: context: Input should be a valid integer, not '512'"),
        ("name: tiny", "- tiny", "is not YAML"),
    ],
)
def test_a_bad_recipe_is_told_by_line(recipe_file, old, new, problem):
    text = recipe_file.read_text()
    assert old in text
    recipe_file.write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidConfigError) as caught:
        load(recipe_file)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{recipe_file}:")


def test_a_shape_is_checked_with_the_context(tmp_path):
    text = find("qwen2.5-7b-0.5b").read_text().replace("context: 4096", "context: 32764")
    (tmp_path / "long.yaml").write_text(text)
    with pytest.raises(
        InvalidConfigError, match=r"5:1: context: 32764 and max_draft_len 8 are above the target's 32768"
    ):
        load(tmp_path / "long.yaml")


def test_a_parallelism_that_divides_no_heads(tmp_path):
    text = find("qwen2.5-7b-0.5b").read_text().replace("tensor_parallel: 1", "tensor_parallel: 8")
    (tmp_path / "wide.yaml").write_text(text.replace("count: 1", "count: 8"))
    with pytest.raises(InvalidConfigError, match=r"target.tensor_parallel: 8 does not divide 28 and 4 heads"):
        load(tmp_path / "wide.yaml")


def test_blocks_of_weights_are_not_cut(tmp_path):
    text = find("qwen2.5-72b-1.5b").read_text().replace("quantization: fp8\n  kv_cache: fp8", "quantization: w4a8_awq")
    (tmp_path / "awq.yaml").write_text(text)
    with pytest.raises(InvalidConfigError, match="4 does not divide an MLP of 29568 in whole blocks of 128"):
        load(tmp_path / "awq.yaml")


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ConfigError, match=r"is no file.yaml and not one of llama-3.1-8b"):
        find("llama")


def test_too_little_memory_is_told_before_anything(tmp_path):
    text = find("llama-3.3-70b-3.2-1b-tp4").read_text().replace("tensor_parallel: 4", "tensor_parallel: 1")
    (tmp_path / "big.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"gpu.name: about 8\d\.\d GiB are needed on each H100-80GB, 75\.7 are planned"
    ):
        plan_of(load(tmp_path / "big.yaml"))


def test_calibration_needs_the_whole_model_on_the_gpus(tmp_path):
    text = find("llama-3.3-70b-3.2-1b-tp4").read_text().replace("tensor_parallel: 4", "tensor_parallel: 1")
    text = text.replace("quantization: fp8", "quantization: int4_awq").replace("kv_cache: fp8", "kv_cache: auto")
    (tmp_path / "awq.yaml").write_text(text.replace("count: 4", "count: 1"))
    with pytest.raises(ConfigError, match="int4_awq is calibrated with the 16-bit model on the GPUs: 131 GiB"):
        plan_of(load(tmp_path / "awq.yaml"))


@pytest.mark.parametrize("name", list(BILLIONS))
def test_the_caches_fit_in_the_planned_order_and_in_any(name):
    plan = plan_of(load(find(name)))
    pair, shares = plan.engines, plan.engines.kv_fractions()
    assert list(shares) == ["draft", "target"]
    for order in (("draft", "target"), ("target", "draft")):
        free, taken = pair.gpu_memory, {}
        for role in order:
            engine = getattr(pair, role)
            free -= engine.loaded_bytes
            # What the backend does: a share of what is free, and no more than its limit of tokens.
            taken[role] = min(shares[role] * free, engine.kv_tokens * engine.kv_bytes_per_token)
            free -= taken[role]
            assert free > 0
        recipe = plan.recipe
        if order == ("draft", "target"):
            assert taken == pytest.approx(
                {role: getattr(pair, role).kv_tokens * getattr(pair, role).kv_bytes_per_token for role in order}
            )
        assert taken["target"] >= plan.estimates["target"].kv_least
    assert pair.draft.kv_tokens >= recipe.draft.kv_sequences * recipe.context


def test_kv_bytes_of_a_token():
    recipe = load(find("llama-3.3-70b-3.2-1b-tp4"))
    estimate = memory.estimate(recipe, "target", recipe_shapes(recipe)["target"])
    assert estimate.kv_per_token == 2 * 80 * (8 // 4) * 128 * 1  # keys and values, layers, heads of a rank, width, FP8
    recipe = load(find("llama-3.1-8b-3.2-1b"))
    estimate = memory.estimate(recipe, "target", recipe_shapes(recipe)["target"])
    assert estimate.kv_per_token == 2 * 32 * 8 * 128 * 2


def test_the_plan_for_programs():
    plain = as_plain(plan_of(load(find("llama-3.1-8b-3.2-1b"))))
    assert plain["tested_on_a_gpu"] is False
    assert plain["steps"][0]["source"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert plain["disk_bytes"] > 2 * 16e9


def test_the_documentation_has_every_field():
    text = (Path(__file__).parents[3] / "docs" / "build_engines.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([a-z._]+)`", "\n".join(re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE))))
    fields = {f"gpu.{name}" for name in GpuSection.model_fields}
    fields |= (Recipe.model_fields.keys() - {"gpu"}) | ModelSection.model_fields.keys()
    assert fields <= documented
    for name in shipped():
        assert f"| `{name}` |" in text
    for name in GPUS:
        assert f"`{name}`" in text


def test_the_documentations_figures():
    text = (Path(__file__).parents[3] / "docs" / "build_engines.md").read_text(encoding="utf-8")
    plan = plan_of(load(find("llama-3.1-8b-3.2-1b")))
    for role in ROLES:
        each, engine = plan.estimates[role], getattr(plan.engines, role)
        sizes = (each.weights, each.activations, memory.CUDA_BYTES, engine.kv_tokens * each.kv_per_token)
        row = " | ".join(f"{size / (1 << 30):.1f}" for size in sizes)
        assert f"| {role} | {row} | {engine.kv_tokens:,} |" in text


def test_both_packages_are_installed():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["wanspec", "build_engines"]' in text
