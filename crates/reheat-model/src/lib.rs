//! Qwen2 as Burn modules: configuration, forward pass, safetensors in and out.
