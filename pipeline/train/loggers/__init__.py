"""`--logger`: a run's epochs in Weights & Biases, MLflow or Trackio, by their own libraries.

`follower` sends what metrics.jsonl has and a service has not; each other file opens a run in one of them.
"""
