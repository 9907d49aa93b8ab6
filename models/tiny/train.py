"""Trains the built-in model: a Llama-shaped decoder of 3.5 million parameters, from `corpus.py` alone.

Needs torch, transformers and tokenizers; runs on a CUDA device where there is one, else on the CPU.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from corpus import documents, held_out_sums, right_sum
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
LEARNING_RATE, WARMUP_STEPS, LAST_SHARE = 2e-3, 100, 0.02
LENGTH = 128  # tokens per training sequence
REPORT_EVERY = 200  # steps


def make_tokenizer() -> Any:
    """Byte-level BPE with digits one by one, trained on 20,000 texts: about 1,300 entries."""
    tokenizer: Any = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1536, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(islice(documents(1), 20000), trainer)
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    fast.chat_template = TEMPLATE.read_text()
    return fast


def make_model(tokenizer: Any) -> Any:
    """A randomly initialised Llama with tied embeddings for this tokenizer's vocabulary."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: Any, size: int, device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Input and target ids, int64 [size, LENGTH]; what a user says cannot be predicted, so it is no target (-100)."""
    user, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    source, need = documents(2), size * LENGTH + 1
    ids: list[int] = []
    targets: list[int] = []
    while True:
        while len(ids) < need:
            asking = False
            for token in tokenizer(next(source), add_special_tokens=False)["input_ids"]:
                asking = token == user or (asking and token != assistant)
                ids.append(token)
                targets.append(-100 if asking or token == assistant else token)
        x = torch.tensor(ids[: need - 1], device=device)
        y = torch.tensor(targets[1:need], device=device)
        ids, targets = ids[need - 1 :], targets[need - 1 :]
        yield x.view(size, LENGTH), y.view(size, LENGTH)


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, count: int) -> float:
    """Share of `count` held-out sums that the model answers rightly, greedily."""
    model.eval()
    right = 0
    for a, b in held_out_sums(count):
        question = f"<|user|>What is {a} + {b}?<|assistant|>"
        x = tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
        y = model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=40, do_sample=False)
        right += right_sum(tokenizer.decode(y[0, x.shape[1] :], skip_special_tokens=True), a, b)
    model.train()
    return right / count


def make_optimizer(model: Any) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))


def learning_rate(step: int, done: float) -> float:
    """Linear warm-up, then a cosine over the time budget down to LAST_SHARE; `done` is the share of time spent."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * done)
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (LAST_SHARE + (1 - LAST_SHARE) * cosine)


def train(model: Any, tokenizer: Any, minutes: float) -> None:
    """Trains for a fixed time, printing loss, speed and a quick score as it goes."""
    optimizer = make_optimizer(model)
    size = 16 if model.device.type == "cpu" else 256
    start, seen = time.monotonic(), 0
    for step, (x, y) in enumerate(batches(tokenizer, size, model.device.type)):
        elapsed = time.monotonic() - start
        done = elapsed / (minutes * 60)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done)
        loss = torch.nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += x.numel()
        if (step + 1) % REPORT_EVERY == 0:
            score = accuracy(model, tokenizer, 50)
            print(f"step {step + 1} ({done:.0%}) loss {loss.item():.3f} sums {score:.2f} {seen / elapsed:.0f} tokens/s", flush=True)
    print(f"trained on {seen:,} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the model and its tokenizer")
    parser.add_argument("minutes", type=float, help="how long to train; 36 on two cores gave the shipped weights")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}", flush=True)
    train(model, tokenizer, arguments.minutes)
    print(f"held-out sums: {accuracy(model, tokenizer, 500):.3f}")
    model.to(torch.float16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
