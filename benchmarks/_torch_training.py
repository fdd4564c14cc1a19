"""The same training steps in PyTorch, as its users write them: the peer of the timings."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks._training import MODELS, random_batch
from experiments.models.llama import SIZES

__all__ = ["model", "runner"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm; the shortcut is padded with zeros (option A)."""

    def __init__(self, c_in: int, c: int, strides: int):
        super().__init__()
        self.conv_0 = nn.Conv2d(c_in, c, 3, strides, 1, bias=False)
        self.conv_1 = nn.Conv2d(c, c, 3, 1, 1, bias=False)
        self.norm_0, self.norm_1 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.strides, self.new = strides, c - c_in

    def forward(self, x):
        y = F.relu(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        half = self.new // 2
        x = F.pad(x[:, :, :: self.strides, :: self.strides], (0, 0, 0, 0, half, self.new - half))
        return F.relu(x + y)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.out, self.heads = nn.Linear(width, width, bias=False), heads

    def forward(self, x, turn):
        b, t, d = x.shape
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in self.qkv)
        q, k = (_rotated(z, *turn) for z in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


def _rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Layer(nn.Module):
    """Attention and gated perceptron, each after an RMSNorm."""

    def __init__(self, width: int, inner: int, heads: int):
        super().__init__()
        self.norm_0, self.norm_1 = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        self.attention = Attention(width, heads)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x, turn):
        x = x + self.attention(self.norm_0(x), turn)
        h = self.norm_1(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class LLaMA(nn.Module):
    """The LLaMA of ``experiments.models``."""

    def __init__(self, size: str, vocabulary: int):
        super().__init__()
        width, inner, depth, heads = SIZES[size]
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, inner, heads) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width, 1e-6), nn.Linear(width, vocabulary, bias=False)
        self.dim = width // heads

    def forward(self, tokens):
        theta = 10000.0 ** (-torch.arange(0, self.dim, 2, device=tokens.device) / self.dim)
        angle = torch.outer(torch.arange(tokens.shape[1], device=tokens.device), theta)
        turn = angle.cos(), angle.sin()
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, turn)
        return self.head(self.norm(x))


def model(name: str) -> nn.Module:
    """Returns the network of that name of ``benchmarks._training.MODELS``.

    Raises:
      ValueError: There is none.
    """
    _, _, classes, options = MODELS[name]
    if name == "MLP":
        sizes = (784, 300, 100, classes)
        layers: list[nn.Module] = [nn.Flatten()]
        for i in range(3):
            layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()]
        return nn.Sequential(*layers[:-1])
    if name == "LeNet-5":
        convolutions = (nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2))
        dense = (nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, classes))
        return nn.Sequential(*convolutions, *dense)
    if name == "ResNet-20":
        blocks = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        c_in = 16
        for i, c in enumerate((16, 32, 64)):
            for j in range(3):
                blocks.append(ResidualBlock(c_in, c, 2 if i > 0 and j == 0 else 1))
                c_in = c
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    if "size" in options:
        return LLaMA(options["size"], classes)
    raise ValueError(f"there is no {name} in PyTorch here")


def runner(
    name: str, examples: int, device: str = "cpu", amp: bool = False, compiled: bool = False
) -> Callable[[], Any]:
    """Returns a function that makes one step with AdamW, by autocast to bfloat16 with ``amp``."""
    torch.manual_seed(0)
    network = model(name).to(device)
    batch = random_batch(name, examples)
    x, label = (torch.as_tensor(batch[k].copy(), device=device) for k in ("x", "label"))
    label = label.long()
    if x.ndim == 4:
        x = x.permute(0, 3, 1, 2)  # The memory stays channels last, which PyTorch prefers too.
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.1, fused=True)
    forward = torch.compile(network) if compiled else network

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            logits = forward(x)
        loss = F.cross_entropy(logits.float().flatten(0, -2), label.flatten())
        loss.backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return loss.detach()

    return run
