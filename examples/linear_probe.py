"""A linear probe on a trained model's features, by scikit-learn: python examples/linear_probe.py CACHE RUN"""

import sys

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ci2p

path, run = sys.argv[1:3]
model = ci2p.load(run)
train, val = ci2p.open(path), ci2p.open(path, "val")

probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
probe.fit(model.features(train), train.labels)  # float32 [N, D]: no image is read
print(f"probe: top-1 {100 * probe.score(model.features(val), val.labels):.1f} %")

for key, label in list(zip(val.keys, probe.predict(model.features(val)), strict=True))[:3]:
    print(f"{key}: {val.classes[label]}")
