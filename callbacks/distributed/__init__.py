"""Train in several processes on PyTorch's own engine: `torch.distributed`, DDP and FSDP."""
