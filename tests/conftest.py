"""What all tests share: one torch thread, since tiny models on shared cores are many times slower with more."""

import torch

torch.set_num_threads(1)
