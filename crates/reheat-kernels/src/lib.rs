//! Fused differentiable operations as Burn backend extensions.
