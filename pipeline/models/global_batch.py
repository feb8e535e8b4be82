"""Global batch: a model on one of several processes computes what it would compute of the whole batch in one.

What a layer draws it draws for all samples of the global batch, from the step's seed, which all ranks share, and takes
its own ones; and BatchNorm takes its statistics over all of them, on the CPU too, where torch has no such layer.
Sample i of the global batch is on rank i mod W, as `ci2p_cache.order.rank_slice` deals them.
"""

# B batch of one rank, C channels, H=W grid, W ranks (world size), L tokens, D width

from typing import Any, cast

import torch
import torch.distributed
from timm.layers import DropPath, PatchDropout
from torch import Tensor, nn
from torch.nn.functional import batch_norm


def see_global_batch(model: nn.Module, rank: int, world_size: int) -> nn.Module:
    """Puts layers of the global batch in the place of those that would see a rank's own part; one rank needs none.

    Names and tensors of the state stay as they are. Every rank must have as many samples as any other.
    """
    if world_size == 1:
        return model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is DropPath:
                setattr(parent, name, _DropPath(child, rank, world_size))
            elif type(child) is PatchDropout:
                setattr(parent, name, _PatchDropout(child, rank, world_size))
            elif type(child) is nn.BatchNorm2d:
                setattr(parent, name, GlobalBatchNorm(child, world_size))
    return model


class _DropPath(nn.Module):
    """timm's stochastic depth, drawn for the global batch."""

    def __init__(self, alone: DropPath, rank: int, world_size: int) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = alone.drop_prob, alone.scale_by_keep
        self.rank, self.world_size = rank, world_size

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        kept = x.new_empty((self.world_size * len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
        if keep_prob > 0 and self.scale_by_keep:
            kept.div_(keep_prob)
        return x * kept[self.rank :: self.world_size]


class _PatchDropout(nn.Module):
    """timm's dropping of tokens, drawn for the global batch."""

    def __init__(self, alone: PatchDropout, rank: int, world_size: int) -> None:
        super().__init__()
        assert not alone.ordered
        self.prob, self.num_prefix_tokens = alone.prob, alone.num_prefix_tokens
        self.rank, self.world_size = rank, world_size

    def forward(self, x_BLD: Tensor) -> Tensor:
        if self.prob == 0 or not self.training:
            return x_BLD
        prefix, rest = x_BLD[:, : self.num_prefix_tokens], x_BLD[:, self.num_prefix_tokens :]
        B, L, D = rest.shape
        drawn = torch.randn(self.world_size * B, L, device=rest.device)[self.rank :: self.world_size]
        kept = torch.argsort(drawn, dim=-1)[:, : max(1, int(L * (1 - self.prob)))]
        return torch.cat((prefix, rest.gather(1, kept[..., None].expand(-1, -1, D))), dim=1)


class GlobalBatchNorm(nn.BatchNorm2d):
    """Normalises by mean and variance of all ranks' values while it trains.

    In place of torch's SyncBatchNorm, which on CUDA waits for the device at every layer, for batches that may be of
    different sizes, and which torch.compile cannot trace; here all are equal. One message a direction.
    """

    def __init__(self, alone: nn.BatchNorm2d, world_size: int) -> None:
        super().__init__(alone.num_features, alone.eps, alone.momentum)
        self.weight, self.bias = alone.weight, alone.bias
        self.running_mean, self.running_var = alone.running_mean, alone.running_var
        self.num_batches_tracked = alone.num_batches_tracked
        self.training = alone.training
        self.world_size = world_size

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            normalised: Tensor = super().forward(input)
            return normalised
        self._check_input_dim(input)
        count = self.world_size * (input.numel() // input.shape[1])
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
        apply: Any = _Normalise.apply
        out, mean_C, var_C = apply(input, self.weight, self.bias, self.eps, self.world_size)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return cast(Tensor, out)


class _Normalise(torch.autograd.Function):
    """(x, weight, bias, eps, W) -> (x normalised over all W ranks, mean [C], biased variance [C]).

    Statistics are float32 whatever x is. A rank's own are taken about its own mean; they are put together in double
    precision, where mean(x^2) - mean(x)^2 loses nothing that a float32 mean has.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, world_size: int
    ) -> tuple[Tensor, ...]:
        own_var_C, own_mean_C = torch.var_mean(x_BCHW.float(), dim=(0, 2, 3), correction=0)
        own_var_C, own_mean_C = own_var_C.double(), own_mean_C.double()
        sums_2C = torch.stack([own_mean_C, own_var_C + own_mean_C.square()])
        torch.distributed.all_reduce(sums_2C)
        exact_mean_C, square_C = sums_2C / world_size
        mean_C, var_C = exact_mean_C.float(), (square_C - exact_mean_C.square()).clamp(min=0).float()
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, (var_C + eps).rsqrt())
        ctx.mark_non_differentiable(mean_C, var_C)
        ctx.world_size = world_size
        return batch_norm(x_BCHW, mean_C, var_C, weight_C, bias_C, eps=eps), mean_C, var_C

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, mean_C, scale_C = ctx.saved_tensors
        grad_BCHW = grads[0].float()
        shape = (1, -1, 1, 1)
        x_hat_BCHW = (x_BCHW.float() - mean_C.view(shape)).mul_(scale_C.view(shape))
        own_2C = torch.stack([grad_BCHW.sum((0, 2, 3)), (grad_BCHW * x_hat_BCHW).sum((0, 2, 3))])
        sums_2C = own_2C.clone()
        torch.distributed.all_reduce(sums_2C)
        bias_mean_C, weight_mean_C = sums_2C / (ctx.world_size * (x_BCHW.numel() // x_BCHW.shape[1]))
        grad_x_BCHW = x_hat_BCHW.mul_(-weight_mean_C.view(shape)).add_(grad_BCHW).sub_(bias_mean_C.view(shape))
        grad_x_BCHW = grad_x_BCHW.mul_((weight_C * scale_C).view(shape))
        return grad_x_BCHW.to(x_BCHW.dtype), own_2C[1], own_2C[0], None, None
