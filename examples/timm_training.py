"""timm's own parts on a cache, mixup and averaged weights too: python examples/timm_training.py CACHE [EPOCHS]"""

import sys

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, accuracy
from torch.utils.data import DataLoader

import ci2p

path, epochs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30
ci2p.register_timm_models()
train, val = ci2p.open(path).dataset("random"), ci2p.open(path, "val").dataset("plain")
size = ci2p.open(path).spec.latent_size
model = timm.create_model("ci2p_vit_tiny", num_classes=len(train.classes), latent_size=size, drop_path_rate=0.1)
optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05)
schedule, _ = create_scheduler_v2(optimizer, num_epochs=epochs, warmup_epochs=max(1, epochs // 15))
average, mixup = ModelEmaV3(model, decay=0.99), Mixup(mixup_alpha=0.2, num_classes=len(train.classes))
loader = DataLoader(train, batch_size=8, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)

for epoch in range(epochs):
    train.set_epoch(epoch)  # another view of every image
    for latents, labels in loader:
        latents, targets = mixup(latents, labels)
        loss = SoftTargetCrossEntropy()(model(latents), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
    schedule.step(epoch + 1)

with torch.inference_mode():
    latents, labels = next(iter(DataLoader(val, batch_size=len(val))))
    print(f"top-1 {accuracy(average.module.eval()(latents), labels)[0]:.1f} %")
