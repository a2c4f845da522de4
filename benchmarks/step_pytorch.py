"""ResNet-50-D in PyTorch, channels last, bfloat16 by autocast: forward, backward, update. Runs in a Python that has
torch."""

import side
import torch
from torch import nn

options = side.arguments()
torch.set_num_threads(options.threads)


def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, width, 1), nn.ReLU(True), conv(width, width, 3, stride), nn.ReLU(True),
                                  conv(width, 4 * width, 1))
        pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        self.shortcut = nn.Identity() if channels == 4 * width else nn.Sequential(pool, conv(channels, 4 * width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.body(x) + self.shortcut(x))


layers = [conv(3, 32, 3, 2), nn.ReLU(True), conv(32, 32, 3), nn.ReLU(True), conv(32, 64, 3), nn.ReLU(True),
          nn.MaxPool2d(3, 2, 1)]
channels = 64
for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
    for number in range(blocks):
        layers.append(Bottleneck(channels, width, 2 if number == 0 and width > 64 else 1))
        channels = 4 * width
layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)
images = torch.randn(options.batch_size, 3, 224, 224).contiguous(memory_format=torch.channels_last)
labels = torch.arange(options.batch_size)


def steps(count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=options.precision == 'bfloat16'):
            logits = network(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()


steps(2)
side.serve(lambda: steps(options.steps), options.steps * options.batch_size, lambda: steps(1),
           parameters=sum(parameter.numel() for parameter in network.parameters()), version=torch.__version__)
