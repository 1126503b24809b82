"""Training of any `nn.Module`: loop, optimizer groups, schedules, EMA, checkpoints, processes, bucketing."""
