"""Training and what it leaves behind: `loop`, `optim`, `artifact`. It knows `nn.Module`, and none of the fields."""
