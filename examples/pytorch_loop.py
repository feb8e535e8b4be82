"""A plain PyTorch loop on a cache: python examples/pytorch_loop.py CACHE [EPOCHS]"""

import sys

import torch

import ci2p

path, epochs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30
device = "cuda" if torch.cuda.is_available() else "cpu"
train, val = ci2p.open(path), ci2p.open(path, "val")
model = ci2p.create_model("ci2p_vit_tiny", len(train.classes), train.spec.image_size).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
loader = train.loader(batch_size=min(128, len(train)), device=device, seed=0)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=epochs * len(loader))

for epoch in range(epochs):
    model.train()
    for latents, labels in loader.epoch(epoch):
        loss = torch.nn.functional.cross_entropy(model(latents), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    model.eval()
    right = 0
    with torch.inference_mode():
        for latents, labels in val.loader(batch_size=256, device=device, shuffle=False):
            right += int((model(latents).argmax(1) == labels).sum())
    print(f"epoch {epoch + 1}: top-1 {100 * right / len(val):.1f} %")
