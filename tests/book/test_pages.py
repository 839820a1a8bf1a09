"""Pages that are written by hand: the reference lists every public name, the glossary every term it must."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
from api import api_lines, public_modules, public_names
from chapters import ROOT, docnames
from inventories import NUMPY, PYTHON, TORCH, inventory
from sphinx.pycode import ModuleAnalyzer

MODULES = public_modules(ROOT)
# terms of the field with the Chinese words that readers of Chinese articles know
TERMS = {
    "gradient descent": "梯度下降", "stochastic gradient descent": "随机梯度下降", "mini-batch": "小批量",
    "learning rate": "学习率", "learning rate schedule": "学习率调度", "warm-up": "预热", "momentum": "动量",
    "adaptive optimizer": "自适应优化器", "exponential moving average": "指数移动平均", "loss": "损失函数",
    "cross-entropy": "交叉熵", "mean squared error": "均方误差", "logits": "未归一化分数", "epoch": "轮次",
    "batch normalization": "批量归一化", "regularization": "正则化", "weight decay": "权重衰减", "dropout": "暂退法",
    "early stopping": "早停", "data augmentation": "数据增强", "shuffling": "打乱", "leakage": "数据泄漏",
    "subsampling": "子采样", "coreset": "核心集", "sparse storage": "稀疏存储", "pruning": "剪枝", "mask": "掩码",
    "sparsity": "稀疏度", "fine-tuning": "微调", "quantization": "量化", "scale": "缩放因子", "zero-point": "零点",
    "post-training quantization": "训练后量化", "quantization-aware training": "量化感知训练",
    "weight-only quantization": "仅权重量化", "weight and activation quantization": "权重与激活量化",
    "knowledge distillation": "知识蒸馏", "temperature": "温度", "soft targets": "软标签",
    "transfer learning": "迁移学习",
    "weight sharing": "权重共享", "weight tying": "权重绑定", "codebook": "码本", "neuron merging": "神经元合并",
    "layer merging": "层合并", "BN folding": "BN 折叠", "low-rank factorization": "低秩分解",
    "data parallelism": "数据并行", "all-reduce": "全归约", "parameter server": "参数服务器",
    "stale gradient": "陈旧梯度", "rank": "进程秩", "world size": "总进程数", "strong scaling": "强扩展",
    "weak scaling": "弱扩展", "cache": "缓存", "prefetch": "预取", "mixed precision": "混合精度", "latency": "延迟",
    "throughput": "吞吐", "Hessian": "海森矩阵", "curvature": "曲率", "quasi-Newton method": "拟牛顿法",
    "generalization": "泛化", "overfitting": "过拟合", "underfitting": "欠拟合",
}  # fmt: skip
MISTRANSLATIONS = ("纪元", "批量正则化", "训练器", "裁剪", "恢复权重", "知识迁移", "稀疏数据处理", "梯度的二阶导数")


def documented() -> str:
    pages = (ROOT / f"{name}.md" for name in docnames() if name.startswith("book/api/"))
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def undocumented(module: ModuleType) -> list[str]:
    """Return the public names of a module that have no docstring of their own."""
    faults = []
    for name in public_names(module):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            words = value.__doc__ or ""
        else:
            words = " ".join(constant_words(home, name) for home in homes(module))
        if not words.strip():
            faults.append(f"{module.__name__}.{name}")
    return faults


def homes(module: ModuleType) -> list[str]:
    """Return the module and, if it is a room, its own modules."""
    folders = getattr(module, "__path__", [])
    return [module.__name__, *(f"{module.__name__}.{info.name}" for info in pkgutil.iter_modules(folders))]


def constant_words(module: str, name: str) -> str:
    """Return the string below the definition of a constant or an alias: Python itself does not keep it."""
    return " ".join(ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name), []))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_place_in_the_reference(name: str) -> None:
    assert f"{{nnopt-api}} {name}\n" in documented()


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_listed_and_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    lines = "\n".join(api_lines(name))
    for member in public_names(module):
        assert re.search(rf"^\.\. auto\w+:: {name}\.{member}$", lines, re.MULTILINE), member
    assert undocumented(module) == []
    assert (module.__doc__ or "").strip()


def test_a_public_name_without_a_docstring_is_seen() -> None:
    module = ModuleType("planted")
    module.__dict__.update({"__all__": ["silent"], "silent": lambda: None})
    assert undocumented(module) == ["planted.silent"]


def test_a_constant_without_a_docstring_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = '__all__ = ["SAID", "SILENT"]\nSAID = 1\n"""Words."""\nSILENT = 2\n'
    (tmp_path / "planted_constants.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert undocumented(importlib.import_module("planted_constants")) == ["planted_constants.SILENT"]


def entries() -> dict[str, list[str]]:
    """Return the glossary: first term -> its lines."""
    text = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
    body = text[text.index(":sorted:") : text.rindex("```")].split("\n\n")[1:]
    return {block.strip().splitlines()[0]: block.strip().splitlines() for block in body if block.strip()}


def test_the_glossary_has_every_term_in_both_languages() -> None:
    found = entries()
    for term, chinese in TERMS.items():
        assert term in found, term
        assert chinese in found[term][1:], (term, chinese)


def test_every_term_of_the_glossary_has_a_sentence_and_a_chinese_word() -> None:
    for term, lines in entries().items():
        assert re.search(r"[\u4e00-\u9fff]", lines[1]), term
        assert lines[-1].startswith("  "), term
        assert lines[-1].rstrip().endswith("."), term


def test_the_glossary_flags_the_common_mistranslations() -> None:
    text = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
    assert [word for word in MISTRANSLATIONS if word not in text] == []


def test_the_committed_inventories_are_what_the_script_writes() -> None:
    folder = ROOT / "book" / "_inventories"
    for name, project, names in (("python", "Python", PYTHON), ("numpy", "NumPy", NUMPY), ("torch", "torch", TORCH)):
        assert (folder / f"{name}.inv").read_bytes() == inventory(project, names)
