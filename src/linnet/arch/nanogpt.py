"""GPT-2's layer as plain PyTorch code writes it (nanoGPT, Karpathy 2022, and its kin): matrices stored [out, in], an exact GELU,
biases in all linear layers and norms or in none, GPT-2's names.

Source: https://github.com/karpathy/nanoGPT/blob/master/model.py
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch import gpt2
from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER, in_one_tensor
from linnet.arch.spec import ModelSpec
from linnet.arch.table import FINAL_NORM, Table, biases, renamed, standard_table

# Of a run rather than of the model: nanoGPT saves its whole configuration beside the model's arguments.
_TRAINING = (
    "always_save_checkpoint backend batch_size beta1 beta2 compile data_dir dataset decay_lr device eval_interval eval_iters eval_only "
    "grad_clip gradient_accumulation_steps init_from learning_rate log_interval lr_decay_iters max_iters min_lr out_dir seed "
    "wandb_log wandb_project wandb_run_name warmup_iters weight_decay"
).split()


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.ignore(_TRAINING)
    config.called(max_position_embeddings="block_size")
    config.assume(hidden_act="gelu", tie_word_embeddings="lm_head.weight" not in config.tensors)
    bias = config.flag("bias", "transformer.ln_f.bias" in config.tensors)
    spec = replace(gpt2.build(config)[0], family="nanogpt")
    return spec, table(spec, bias)


def table(spec: ModelSpec, bias: bool | None = None) -> Table:
    """bias: whether linear layers and norms have any; None: as the checkpoint has them."""
    rows = renamed(PLAIN_LAYER, "transformer.h.{layer}.", gpt2.NAMES)
    rows = in_one_tensor(rows, spec, "transformer.h.{layer}.attn.c_attn.weight", grouped=False)
    final_norm = renamed([FINAL_NORM], "", gpt2.OUTER[1:2])
    norms = [row for row in rows if row.field.endswith("norm.weight")]
    all_biases = [*biases(rows, bias), *biases([*norms, *final_norm], bias, of="weight")]
    return standard_table(spec, [gpt2.POSITIONS, *rows, *all_biases], gpt2.OUTER, ignored=["*.attn.bias", "*.attn.mask"])
